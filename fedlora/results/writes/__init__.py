"""Language models that write: what they are given, token by token, and a conversation with them."""
