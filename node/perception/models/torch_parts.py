"""torch is an extra: it exports networks and infers on a GPU; an exported model runs without it."""

import importlib.util

from node.errors import ModelError

_PACKAGES = ("torch", "torchvision", "timm")


class TorchMissingError(ModelError):
    """The extra is not installed."""


def check_torch(subject: str, *, or_else: str = "") -> None:
    """Raises TorchMissingError where a package of the extra is not installed.

    Args:
        subject: what needs the extra, for the error.
        or_else: another fix than to install the extra.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TorchMissingError(
            f"{subject} needs the packages {', '.join(missing)}",
            fix=f'install "perception-node[torch]"{or_else}',
        )
