"""Config: the schema of the configuration, the one way to read it, and what of it may be shown."""
