"""ConnectedSubscriber: what `Subscriber` and `AsyncSubscriber` have in common, the connection.
They add the waits, blocking and awaited."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_client.base import SubscriberBase
from perception_client.catch_up import CatchUp
from perception_client.connection import Connection
from perception_client.errors import NodeGoneError, NoMessageError, NotUsableError
from perception_client.inbox import Inbox, reconnect, silence
from perception_client.keys import Keys
from perception_client.waits import seconds


class ConnectedSubscriber(SubscriberBase):
    """A subscriber's connection, and the errors that only the connection can explain.

    new_context: makes the ZeroMQ context, blocking or for asyncio. The other arguments, and the
    errors, are those of `Subscriber`.
    """

    def __init__(
        self,
        new_context: Callable[[], Any],
        endpoint: str,
        camera: str | None,
        timeout_s: float,
        keys: Path | str | Keys | None,
    ) -> None:
        super().__init__(endpoint, camera, Inbox(endpoint))
        self._timeout_s = seconds("timeout_s", timeout_s)
        self._catch_up = CatchUp()
        self._connection = Connection(new_context, endpoint, self._camera, keys)

    def close(self) -> None:
        """Closes the connection; a second call does nothing. Raises WrongThreadError while another
        thread uses this subscriber."""
        self._connection.close()

    def _explained(self, error: NotUsableError) -> NotUsableError:
        """The same error, or a better one where the connection knows more than the inbox."""
        if not isinstance(error, NodeGoneError):
            return error
        if (refusal := self._connection.refusal()) is not None:
            return NodeGoneError(f"{self._source}: {refusal}", error.message)
        return self._inbox.catching_up() if self._catch_up.is_under_way else error

    def _silent(self, timeout_s: float) -> NoMessageError:
        """The error of a wait in which no message came."""
        if (refusal := self._connection.refusal()) is not None:
            return NoMessageError(f"{self._source}: {refusal}", refusal=refusal)
        return NoMessageError(silence(self._source, timeout_s))

    def _reconnect_if_due(self) -> None:
        if self._catch_up.is_due:
            reconnect(self._connection.labels, self._source)
            self._catch_up.connected_anew()
