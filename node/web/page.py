"""Page: the live page of a node and its metrics, from the sent messages to the HTTP server."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from node.config.schema import NodeConfig
from perception_client.messages.kinds import Message

if TYPE_CHECKING:
    from node.web.server import Command, WebServer

log = logging.getLogger(__name__)


class Page:
    """Collects messages from the start; serves from `serve` until `close`. A node without a page
    imports none of this: the HTTP library takes 0.2 s to import."""

    def __init__(self, config: NodeConfig) -> None:
        from node.web.live_state import LiveState
        from node.web.metrics import Metrics

        self._config = config.monitor
        self._live = LiveState([camera.name for camera in config.camera])
        self._metrics = Metrics(self._live)
        self._server: WebServer | None = None

    def message(self, message: Message) -> None:
        """Notes a message that was sent. Quick; on the publisher's thread."""
        self._live.message(message)
        self._metrics.message(message)

    def serve(self, snapshot: Callable[[str], "Future[Any]"], command: "Command") -> None:
        """Opens the address. snapshot: requests a labelled frame of a camera. command: carries out
        a request, as the control socket does. Raises EndpointError, ConfigError."""
        from node.web.preview import Preview
        from node.web.server import WebServer, read_token

        config = self._config
        assert config.web is not None
        self._server = WebServer(
            config.web,
            self._live,
            self._metrics,
            Preview(snapshot, config.picture_fps, config.picture_px),
            token=None if config.token_file is None else read_token(config.token_file),
            command=command if config.allow_control else None,
            hosts=config.hosts,
            insecure=config.insecure,
        )
        log.info("page on http://%s", config.web)

    def close(self) -> None:
        """Closes the address and all connections."""
        if self._server is not None:
            self._server.close()
