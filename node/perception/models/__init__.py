"""Models: loading of networks, weights and model cards."""
