"""Models without a network: classical computer vision. `tags` has NAMES and `load`, by which
`node.perception.models.registry` offers its models."""
