"""The numbers that both ends of the wire agree on."""

SCHEMA = 1
"""Version of the message schema; raised when a meaning changes."""
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest message a reader accepts, in bytes: far above a full label list, far below harm."""
