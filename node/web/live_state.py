"""LiveState: the state of the node for the page and the metrics, from the messages of the node."""

import threading
import time
from collections import deque
from dataclasses import asdict
from typing import Any

from perception_client.messages.kinds import (
    EventMessage,
    HealthMessage,
    InfoMessage,
    LabelsMessage,
    Message,
    ModelInfo,
    Status,
)

KEPT_EVENTS = 30
KEPT_HEALTH = 120
"""Length of the latency plot in seconds: one health message a second."""


class LiveState:
    """The newest messages. The publisher's thread writes, the page's thread reads."""

    def __init__(self, cameras: list[str]) -> None:
        self._cameras = cameras
        self._lock = threading.Lock()
        self._labels: dict[str, LabelsMessage] = {}
        self._seen: dict[str, LabelsMessage] = {}
        self._health: deque[HealthMessage] = deque(maxlen=KEPT_HEALTH)
        self._events: deque[tuple[int, EventMessage]] = deque(maxlen=KEPT_EVENTS)
        self._info: ModelInfo | None = None
        self._event_count = 0

    def message(self, message: Message) -> None:
        """Notes a message that was sent."""
        with self._lock:
            match message:
                case LabelsMessage():
                    self._labels[message.camera] = message
                    if message.status is Status.OK:
                        self._seen[message.camera] = message
                case HealthMessage():
                    self._health.append(message)
                case EventMessage():
                    self._event_count += 1
                    self._events.append((self._event_count, message))
                case InfoMessage():
                    self._info = message.model

    @property
    def health(self) -> HealthMessage | None:
        """The newest health message, None before the first."""
        with self._lock:
            return self._health[-1] if self._health else None

    def content(self) -> dict[str, Any]:
        """The content of the page, ready for JSON. Ages are at the time of the call, in seconds."""
        with self._lock:
            health = self._health[-1] if self._health else None
            labels, seen = dict(self._labels), dict(self._seen)
            past, events = list(self._health), list(self._events)
            info = self._info
        cameras = {camera.camera: camera for camera in (health.cameras if health else ())}
        return {
            "kind": "state",
            "node": health.node if health else None,
            "state": health.state if health else "starting",
            "session": health.session if health else None,
            "model": asdict(info) if info else None,
            "settings": max((message.settings for message in labels.values()), default=None),
            "degraded": list(health.degraded) if health else [],
            "last_error": health.last_error if health else None,
            "uptime_s": health.uptime_s if health else None,
            "cpu": health.cpu if health else None,
            "rss_bytes": health.rss_bytes if health else None,
            "subscribers": health.subscribers if health else None,
            "recording": asdict(health.recording) if health and health.recording else None,
            "latency": [_latency(message) for message in past],
            "cameras": [
                {
                    "name": name,
                    "status": str(labels[name].status) if name in labels else "no_camera",
                    "age_s": seen[name].age_bound_s if name in seen else None,
                    "health": asdict(cameras[name]) if name in cameras else None,
                }
                for name in self._cameras
            ],
            "events": [_event(number, event) for number, event in reversed(events)],
        }


def _latency(health: HealthMessage) -> dict[str, float] | None:
    if health.latency_ns is None:
        return None
    return {"p50_ms": health.latency_ns.p50 / 1e6, "p99_ms": health.latency_ns.p99 / 1e6}


def _event(number: int, event: EventMessage) -> dict[str, Any]:
    return {
        "number": number,
        "camera": event.camera,
        "kind": event.kind,
        "name": event.name,
        "track": event.track,
        "region": event.region,
        "ago_s": max(0.0, (time.time_ns() - event.published_ns) / 1e9),
    }
