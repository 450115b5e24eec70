"""Who may come in: logins, tokens, roles, and what every answer carries."""
