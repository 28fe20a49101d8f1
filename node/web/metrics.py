"""Metrics: the messages of a node in the format of Prometheus. Names and units follow its
conventions: seconds, bytes, totals."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from node import __version__
from node.web.live_state import LiveState
from perception_client.messages.kinds import (
    CameraHealth,
    HealthMessage,
    LabelsMessage,
    Message,
    Status,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.033, 0.05, 0.1, 0.25, 0.5,
    1.0,
)  # fmt: skip
"""From a fast stage to a second; 0.033 is the period of 30 frames a second."""
STAGES = ("capture", "wait", "preprocess", "infer", "postprocess")


class Metrics:
    """Counts and times the messages. The publisher's thread writes; any thread reads."""

    def __init__(self, live: LiveState) -> None:
        self._registry = CollectorRegistry()
        self._stages = Histogram(
            "perception_stage_duration_seconds",
            "Time of a labelled frame in one stage.",
            ["camera", "stage"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._latency = Histogram(
            "perception_capture_to_publish_seconds",
            "From the capture of a frame to the publishing of its labels.",
            ["camera"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_FromHealth(live))

    def message(self, message: Message) -> None:
        """Notes a message that was sent."""
        if not isinstance(message, LabelsMessage) or message.timing_ns is None:
            return
        for stage in STAGES:
            spent_ns = getattr(message.timing_ns, stage)
            self._stages.labels(message.camera, stage).observe(spent_ns / 1e9)
        if message.published_mono_ns is not None and message.stamp_mono_ns is not None:
            latency_ns = message.published_mono_ns - message.stamp_mono_ns
            self._latency.labels(message.camera).observe(latency_ns / 1e9)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _FromHealth(Collector):
    """Reads the newest health message at each scrape."""

    def __init__(self, live: LiveState) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        health = self._live.health
        if health is None:
            return
        yield _state(health)
        yield _model(self._live)
        yield _gauge("perception_subscriptions", "Topics subscribed to.", health.subscribers)
        yield _gauge("perception_uptime_seconds", "Since the node started.", health.uptime_s)
        yield _counter(
            "perception_lost_frames", "Frames that the model failed on.", health.lost_frames
        )
        yield from _of_cameras(health.cameras)
        if health.recording is not None:
            recording = health.recording
            yield _gauge(
                "perception_recording", "Whether a recording is being written.",
                int(recording.state == "recording"),
            )  # fmt: skip
            yield _counter(
                "perception_recording_lost_frames", "Frames that the disk was too slow for.",
                recording.lost_frames,
            )  # fmt: skip


def _of_cameras(cameras: tuple[CameraHealth, ...]) -> Iterator[Metric]:
    status = GaugeMetricFamily(
        "perception_camera_status", "1 for the status that a camera has.",
        labels=["camera", "status"],
    )  # fmt: skip
    for camera in cameras:
        for value in Status:
            status.add_metric([camera.camera, str(value)], float(camera.status is value))
    yield status
    for name, description, field in (
        ("frames", "Frames captured.", "frames"),
        ("dropped_frames", "Frames dropped in favour of newer ones.", "dropped"),
        ("corrupt_frames", "Pictures that could not be decoded.", "corrupt"),
        ("repeated_frames", "Pictures that were the same as the one before.", "repeated"),
        ("reconnects", "Times that a source was reopened.", "reconnects"),
        ("deadline_misses", "Messages later than the camera's deadline.", "deadline_misses"),
    ):
        counter = CounterMetricFamily(f"perception_camera_{name}", description, labels=["camera"])
        for camera in cameras:
            counter.add_metric([camera.camera], getattr(camera, field))
        yield counter
    age = GaugeMetricFamily(
        "perception_camera_newest_frame_age_seconds", "Age of the newest frame.", labels=["camera"]
    )
    fps = GaugeMetricFamily(
        "perception_camera_frames_per_second", "Frames captured a second, over the last second.",
        labels=["camera"],
    )  # fmt: skip
    for camera in cameras:
        fps.add_metric([camera.camera], camera.fps)
        if camera.newest_frame_age_s is not None:
            age.add_metric([camera.camera], camera.newest_frame_age_s)
    yield age
    yield fps


def _state(health: HealthMessage) -> Metric:
    family = GaugeMetricFamily(
        "perception_node_state", "1 for the state that the node is in.", labels=["state"]
    )
    for state in ("starting", "running", "degraded", "stalled", "stopping"):
        family.add_metric([state], float(health.state == state))
    return family


def _model(live: LiveState) -> Metric:
    family = InfoMetricFamily("perception_node", "The node and its model.")
    model = live.content()["model"] or {}
    labels = {
        key: str(model.get(key, "")) for key in ("name", "task", "runtime", "precision", "device")
    }
    family.add_metric(
        [], {"version": __version__, **{f"model_{key}": value for key, value in labels.items()}}
    )
    return family


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value)


def _counter(name: str, description: str, value: float) -> Metric:
    return CounterMetricFamily(name, description, value)
