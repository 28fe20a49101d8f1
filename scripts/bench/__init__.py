"""The rows of `scripts/bench.py`: each file measures one cost. `python -m bench.page` in `scripts`
measures that one alone."""
