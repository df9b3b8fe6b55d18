"""API keys: who calls without a person's session."""
