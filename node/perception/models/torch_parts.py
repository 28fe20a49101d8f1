"""torch is an extra: it exports networks and infers on a GPU; an exported model runs without it."""

import importlib.util

from node.errors import ModelError

_PACKAGES = ("torch", "torchvision", "timm")


def check_torch(what: str) -> None:
    """Raises ModelError where a package of the extra is not installed. what: that needs it, for the
    error."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"{what} needs {' and '.join(missing)}",
            fix='install "perception-node[torch]", or bring the cache of a computer that has it',
        )
