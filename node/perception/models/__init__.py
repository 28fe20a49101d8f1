"""Models: where networks and weights come from, and what is known of each."""
