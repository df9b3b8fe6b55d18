"""People: their accounts, passwords, sessions and sign-in links."""
