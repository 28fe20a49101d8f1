"""Web: the live page, its metrics, and who may see and press what."""
