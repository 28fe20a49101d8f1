"""Config: the schema of the configuration, its loader, and redaction of its values."""
