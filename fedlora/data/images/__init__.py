"""Images as rows: the bytes of a file, however they were found; nothing is resized or written anew here."""
