"""Messages: what is on the wire, one dataclass a kind, and how it becomes bytes and back."""
