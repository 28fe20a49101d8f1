"""Perception: models, preprocessing, runtimes and tasks that turn images into labels."""
