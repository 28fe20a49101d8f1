"""Vocabulary: the class names of the node's model, so that a misspelt one is an error and not a
thing that is never seen. Needs the standard library only."""

from collections.abc import Iterable

from perception_client.errors import UnknownClassError
from perception_client.messages.info import InfoMessage
from perception_client.messages.labels import LabelsMessage

_MOST_NAMED = 5


class Vocabulary:
    """The class names in one info message; those of a second model too."""

    def __init__(self, info: InfoMessage) -> None:
        self._info = info
        self.session = info.session
        """The run of the node that sent the info."""
        self._names = frozenset((*info.names, *info.crop_names))

    def covers(self, message: LabelsMessage) -> bool:
        """Whether the message's labels come from this model: the same run of the node, the same
        weights."""
        model, own = message.model, self._info.model
        return (
            model is not None
            and message.session == self.session
            and (model.name, model.digest) == (own.name, own.digest)
        )

    def check(self, name: str) -> None:
        """Raises UnknownClassError where the model has no class of this name."""
        if self._names and name not in self._names:
            raise UnknownClassError(
                f"model {self._info.model.name!r} has no class {name!r}", fix=self._hint(name)
            )

    def _hint(self, name: str) -> str:
        from difflib import get_close_matches  # takes as long to load as a tenth of the client

        known = sorted(self._names)
        lowered = {candidate.lower(): candidate for candidate in known}
        near = get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
        if near:
            return f"did you mean {lowered[near[0]]!r}?"
        return f"it has {len(known)}: {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    more = ", ..." if len(shown) > _MOST_NAMED else ""
    return ", ".join(shown[:_MOST_NAMED]) + more
