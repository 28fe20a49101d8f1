"""Web: the live page, its metrics, and the access to both."""
