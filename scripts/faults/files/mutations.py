"""Mutations: what copying, transport, disks and other people's programs do to a file."""

import random
import re
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Numbers at which lengths, counts and offsets go wrong."""
_WORDS = (
    "0", "-1", "1e400", "nan", "inf", "99999999999999999999", '""', '"' + "x" * 300 + '"', "[]",
    "{}", "[[[[]]]]", "true", "'\\u0000'", "1979-05-27", "0x7fffffffffffffff", '"../../etc/passwd"',
)  # fmt: skip
"""Values of text files."""
_WORD = re.compile(rb'"[^"\n]*"|[-+]?[0-9][0-9._]*|[A-Za-z_]+')


def _flip_bits(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 30))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(chance: random.Random, data: bytes) -> bytes:
    at, length = _run(chance, data)
    noise = bytes(length) if chance.random() < 0.3 else chance.randbytes(length)
    return data[:at] + noise + data[at + length :]


def _cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data))]


def _remove(chance: random.Random, data: bytes) -> bytes:
    at, length = _run(chance, data)
    return data[:at] + data[at + length :]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    at, length = _run(chance, data)
    return data[:at] + data[at : at + length] * chance.choice((2, 3, 50)) + data[at + length :]


def _insert(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.choice((1, 4, 100))) + data[at:]


def _edge_number(chance: random.Random, data: bytes) -> bytes:
    """Near the begin or the end more often: there stand headers and indices."""
    width = chance.choice((1, 2, 4, 8))
    near = min(len(data), 200)
    at = chance.choice(
        (
            chance.randrange(near),
            len(data) - 1 - chance.randrange(near),
            chance.randrange(len(data)),
        )
    )
    number = chance.choice(_EDGES) & (256**width - 1)
    order = chance.choice(("little", "big"))
    return data[:at] + number.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]


def _edge_word(chance: random.Random, data: bytes) -> bytes:
    words = list(_WORD.finditer(data))
    if not words:
        return _flip_bits(chance, data)
    word = chance.choice(words)
    return data[: word.start()] + chance.choice(_WORDS).encode() + data[word.end() :]


def _run(chance: random.Random, data: bytes) -> tuple[int, int]:
    """Where a run of bytes begins, and its length."""
    at = chance.randrange(len(data))
    return at, min(chance.choice((1, 4, 32, 500, 5000)), len(data) - at)


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits, _overwrite, _cut, _remove, _repeat, _insert, _edge_number, _edge_number,
)  # fmt: skip


def mutated(chance: random.Random, data: bytes, *, text: bool) -> bytes:
    """One to three mutations of a file, which may leave it empty but not as it was.

    text: the file is text, whose values are replaced more often than its bytes.
    """
    result = data
    while result == data:
        result = data
        for _ in range(chance.choice((1, 1, 2, 3))):
            if result:
                among = (_edge_word,) * 8 + _MUTATIONS if text else _MUTATIONS
                result = chance.choice(among)(chance, result)
    return result
