"""Doctor: checks this computer and the configuration, and names the fix of each problem."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zmq

from node.config.schema import NodeConfig
from node.diagnostics.doctor_cameras import cameras
from node.diagnostics.finding import Finding
from node.errors import EndpointError, PerceptionError
from node.pipeline.active_model import ActiveModel, Builder
from node.transport.socket_file import check_free, path_of
from node.transport.socket_thread import bind

_FRAME_PX = (720, 1280)
"""Height and width of the black frame."""


def examine(config: NodeConfig, build: Builder) -> Iterator[Finding]:
    """Yields each finding as soon as it is known. build: loads a model as a node does."""
    yield from _computer()
    yield from _opencv()
    yield from cameras(config)
    yield from _torch()
    yield from _other_runtimes()
    yield from _model(config, build)
    yield endpoint_finding("endpoint", config.wire.endpoint)
    if config.control.endpoint is not None:
        yield endpoint_finding("control endpoint", config.control.endpoint)
    if config.monitor.web is not None:
        yield endpoint_finding("page", f"tcp://{config.monitor.web}")
    yield _recordings(config)


def _computer() -> Iterator[Finding]:
    yield Finding("system", "ok", f"{platform.system()} {platform.machine()}")
    yield Finding("python", "ok", platform.python_version())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", "ok", f"{cores} cores for this process")
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if clock.exists():
        yield Finding("clock source", "ok", clock.read_text().strip())


def _opencv() -> Iterator[Finding]:
    packages = [
        name
        for name in ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
        if _installed(name)
    ]
    if len(packages) > 1:
        yield Finding(
            "opencv packages", "wrong", f"{' and '.join(packages)} overwrite each other's files",
            f"pip uninstall {' '.join(packages)}, then install one of them",
        )  # fmt: skip
    try:
        from node.image.opencv import cv2
    except PerceptionError as error:
        yield Finding("opencv", "wrong", error.problem, error.fix)
        return
    registry = cv2.videoio_registry
    backends = sorted(
        {
            registry.getBackendName(backend)
            for backend in registry.getBackends()
            if registry.hasBackend(backend)
        }
    )
    yield Finding("opencv", "ok", f"{cv2.__version__}, {cv2.getNumThreads()} threads")
    yield Finding("opencv back ends", "ok", ", ".join(backends))
    if "GSTREAMER" not in backends:
        yield Finding(
            "gstreamer", "note", "this OpenCV lacks GStreamer: sources gst:... do not work",
            "if you need them, install an OpenCV built with -D WITH_GSTREAMER=ON",
        )  # fmt: skip


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding(
            "torch", "note", "not installed: the default model and exported ones run without it",
            'to export another model or use a GPU, install "perception-node[torch]"',
        )  # fmt: skip
        return
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(
            "torch", "wrong", f"torch and torchvision do not load together: {error}",
            "install the pair that the lock file names: uv sync --frozen",
        )  # fmt: skip
        return
    yield Finding(
        "runtime torch", "ok",
        f"{torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
    )  # fmt: skip
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield Finding("gpu", "ok", f"cuda:{index} {torch.cuda.get_device_name(index)}")
    elif Path("/dev/nvidia0").exists():
        yield Finding(
            "gpu", "wrong", f"an NVIDIA device, but torch {torch.__version__} cannot use it",
            "update the driver, and check that nvidia-smi lists the GPU",
        )  # fmt: skip
    else:
        yield Finding("gpu", "note", "torch finds no GPU: the model runs on the CPU")


def _other_runtimes() -> Iterator[Finding]:
    try:
        from node.perception.onnxruntime_import import ort

        providers = ", ".join(ort.get_available_providers())
        yield Finding("runtime onnxruntime", "ok", f"{ort.__version__}, {providers}")
    except ImportError as error:
        yield _unloadable("onnxruntime", error)
    try:
        from node.perception.openvino_import import core, ov

        devices = ", ".join(core().available_devices)
        version = ov.__version__.partition("-")[0]
        yield Finding("runtime openvino", "ok", f"{version}, devices {devices}")
    except ImportError as error:
        yield _unloadable("openvino", error)


def _unloadable(runtime: str, error: ImportError) -> Finding:
    return Finding(
        f"runtime {runtime}",
        "note",
        f"does not load: {error}",
        "if you need it, install the locked packages: uv sync --frozen",
    )


def _model(config: NodeConfig, build: Builder) -> Iterator[Finding]:
    """Loads every model as a node does, and labels a black frame."""
    from node.perception.model_settings import check_settings, settings_notes

    try:
        check_settings(config)
        yield from (Finding("tags", "note", note) for note in settings_notes(config))
        if absent := _without_weights(config):
            yield Finding(
                "model", "note", f"{', '.join(absent)}: the weights are not on this computer",
                "the first start downloads them; efficientnet_lite0 needs no download",
            )  # fmt: skip
            return
        models = ActiveModel(config, build)
        models.load()
        result = models.in_use.perceive(np.zeros((*_FRAME_PX, 3), np.uint8))
    except PerceptionError as error:
        yield Finding("model", "wrong", error.problem, error.fix)
        return
    info = models.in_use.info
    if result.degraded:
        yield Finding(
            "model", "wrong", f"{info}: {'; '.join(result.degraded)}",
            'repair the GPU, or write model.device = "cpu"',
        )  # fmt: skip
        return
    yield Finding("model", "ok", f"{info}, sha256 {info.digest[:12]}")


def _without_weights(config: NodeConfig) -> list[str]:
    """Returns the models of a configuration whose weights are not on this computer."""
    from node.perception.models.registry import entries

    absent = {entry.name for entry in entries() if not entry.weights_here}
    named = [(config.model.name, config.model.weights), (config.crops.model, config.crops.weights)]
    named += [(step.model, step.weights) for step in config.degrade.steps]
    return [name for name, weights in named if name in absent and weights is None]


def _recordings(config: NodeConfig) -> Finding:
    folder = config.recording.folder
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free_gb = shutil.disk_usage(existing).free / 1e9
    keep_free_mb = config.recording.keep_free_mb
    if not os.access(existing, os.W_OK):
        return Finding(
            "recordings", "wrong" if config.recording.enabled else "note",
            f"{existing} may not be written to by this user",
            f"name another recording.folder, or: sudo chown $USER {existing}",
        )  # fmt: skip
    if free_gb * 1e3 < keep_free_mb:
        return Finding(
            "recordings", "wrong" if config.recording.enabled else "note",
            f"{folder}: {free_gb:.1f} GB free; recording.keep_free_mb reserves {keep_free_mb} MiB",
            "make room, set recording.budget_mb, or lower keep_free_mb",
        )  # fmt: skip
    return Finding("recordings", "ok", f"{folder}: {free_gb:.0f} GB free")


def endpoint_finding(subject: str, endpoint: str) -> Finding:
    """Checks whether an endpoint could be bound now, without leaving a socket or a file."""
    try:
        if endpoint.startswith("ipc://"):
            _check_socket_file(endpoint)
        else:
            _try_binding(endpoint)
    except EndpointError as error:
        return Finding(subject, "wrong", error.problem, error.fix)
    return Finding(subject, "ok", f"{endpoint} is free")


def _check_socket_file(endpoint: str) -> None:
    """Inspects the path without binding, since binding an ipc socket leaves a file. Raises
    EndpointError."""
    check_free(endpoint)
    path = path_of(endpoint)
    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise EndpointError(
            f"endpoint {endpoint} cannot be bound: {path.parent} is no folder that this user may "
            f"write to",
            fix=f"sudo install -d -o $USER {path.parent}, or choose another path",
        )


def _try_binding(endpoint: str) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    try:
        bind(socket, endpoint)
    finally:
        socket.close(linger=0)
        context.term()


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
