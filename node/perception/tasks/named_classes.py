"""Checks the class names in settings against those of a model."""

import difflib
from collections.abc import Iterable, Sequence

from node.config.redact import value_shown
from node.errors import SettingsError

_MOST_SHOWN = 8


def check_named(
    key: str, named: Iterable[str], names: Sequence[str], *, undo: str = "null"
) -> None:
    """Raises SettingsError if settings name a class that the model does not have.

    Args:
        key: of the settings, for the error.
        named: the classes in the settings.
        names: of the model's classes.
        undo: the value of the key without which no class is named.
    """
    unknown = sorted(set(named) - set(names))
    if not unknown:
        return
    nearest = difflib.get_close_matches(unknown[0], names, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    shown = ", ".join(names[:_MOST_SHOWN])
    rest = f", ... ({len(names)} in all)" if len(names) > _MOST_SHOWN else ""
    raise SettingsError(
        f"{key}: {value_shown(unknown[0])} is no class of this model",
        fix=f"{hint}its classes: {shown}{rest}; to unset the key: {key}={undo}",
    )
