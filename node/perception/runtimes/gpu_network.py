"""GpuNetwork: a torch network on a GPU, as a CUDA graph for each input shape."""

import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from node.perception.cuda_graph import CudaGraph
from node.perception.runtimes.inductor import Compiled
from node.perception.runtimes.same_outputs import same_outputs
from node.perception.tasks.base import Outputs

log = logging.getLogger(__name__)

MOST_SHAPES = 16
"""Input shapes whose graph is kept. Another one runs without a graph: a segmentation of a folder of
photographs has as many shapes as photographs."""
_TURNS = 20
"""Inferences of each of two networks that are compared in time."""


class GpuNetwork:
    """Runs a network on the GPU. Not thread-safe.

    Attributes:
        is_compiled: `compile` has replaced the network for one shape.

    Args:
        name: of the model, for the log.
        network: [n, height, width, 3] uint8 to a tuple of tensors, on the GPU.
        device: of the network.
    """

    def __init__(self, name: str, network: nn.Module, device: torch.device) -> None:
        self._name = name
        self._network = network
        self._device = device
        self._graphs: dict[torch.Size, _Graph] = {}
        self.is_compiled = False

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """Returns the outputs on the CPU, valid until the next call."""
        graph = self._graphs.get(pixels.shape)
        if graph is None:
            if len(self._graphs) >= MOST_SHAPES:
                return tuple(output.cpu().numpy() for output in self._network(pixels))
            graph = _Graph(self._network, pixels.to(self._device))
            self._graphs[pixels.shape] = graph
        return graph.run(pixels)

    def compile(self, compiler: Callable[[nn.Module], Compiled], pixels: torch.Tensor) -> None:
        """Compiles the network for the shape of these pixels. The compiled one is used if it gives
        the same outputs in less time; whatever fails is logged, and the network runs as it is.

        compiler: as `inductor.compiled`.
        """
        pixels = pixels.to(self._device)
        started = time.monotonic()
        own = _Graph(self._network, pixels)
        try:
            new = _Graph(compiler(self._network), pixels)
        except Exception as error:  # whatever torch, Triton or a C compiler raises
            reason = str(error).strip().partition("\n")[0] or repr(error)
            log.warning("model %s: cannot be compiled (%s); it runs as it is", self._name, reason)
            return
        compiled_s = time.monotonic() - started
        if not same_outputs(new.outputs(pixels), own.outputs(pixels)):
            log.warning("model %s: compiled, it gives other outputs; not used", self._name)
            return
        own_ms, new_ms = _milliseconds(own, new, pixels)
        self.is_compiled = new_ms < own_ms
        log.info(
            "model %s: compiled in %.1f s; %.2f ms a frame, and %.2f ms before%s",
            self._name, compiled_s, new_ms, own_ms, "" if self.is_compiled else "; not used",
        )  # fmt: skip
        self._graphs[pixels.shape] = new if self.is_compiled else own


class _Graph:
    """A network as a CUDA graph for one input shape: one launch instead of hundreds.

    On the device `cpu` it runs the network at each call, which tests use on computers without a
    GPU.
    """

    def __init__(self, network: Compiled, pixels: torch.Tensor) -> None:
        self.pixels = pixels.clone()
        self._network = network
        self._graph: CudaGraph[None] | None = None
        with torch.inference_mode():
            if pixels.device.type == "cuda":
                self._record()
            else:
                self._network(self.pixels)

    def _record(self) -> None:
        device = self.pixels.device
        current = torch.cuda.current_stream(device)
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                # cuDNN selects its kernels and allocates memory before the recording.
                outputs = self._network(self.pixels)
        self._host_outputs = tuple(
            torch.empty(output.shape, dtype=output.dtype, pin_memory=True) for output in outputs
        )
        self._views = tuple(output.numpy() for output in self._host_outputs)
        self._graph = CudaGraph(self._to_host, side)
        current.wait_stream(side)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _to_host(self) -> None:
        outputs = self._network(self.pixels)
        for host_output, output in zip(self._host_outputs, outputs, strict=True):
            host_output.copy_(output, non_blocking=True)

    def run(self, pixels: torch.Tensor) -> Outputs:
        """Returns the outputs on the CPU, valid until the next call."""
        self.pixels.copy_(pixels, non_blocking=True)
        if self._graph is None:
            return tuple(output.numpy() for output in self._network(self.pixels))
        self._graph.replay()
        self._done.record()
        self._done.synchronize()
        return self._views

    def outputs(self, pixels: torch.Tensor) -> Outputs:
        """Returns copies of the outputs."""
        with torch.inference_mode():
            return tuple(output.copy() for output in self.run(pixels))


def _milliseconds(own: _Graph, new: _Graph, pixels: torch.Tensor) -> tuple[float, float]:
    """Returns the median times of two graphs, measured by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(_TURNS):
            for graph, measured in zip((own, new), times, strict=True):
                started = time.perf_counter()
                graph.run(pixels)
                measured.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])
