"""torch is an extra: it exports networks and infers on a GPU; an exported model runs without it."""

import importlib.util

from node.errors import ModelError

_PACKAGES = ("torch", "torchvision", "timm")


class TorchMissingError(ModelError):
    """The extra is not installed."""


def check_torch(what: str, *, or_else: str = "") -> None:
    """Raises TorchMissingError where a package of the extra is not installed.

    Args:
        what: needs it, for the error.
        or_else: another fix than to install the extra.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TorchMissingError(
            f"{what} needs the packages {', '.join(missing)}",
            fix=f'install "perception-node[torch]"{or_else}',
        )
