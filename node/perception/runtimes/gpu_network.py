"""GpuNetwork: a torch network on a GPU, as a CUDA graph for each input shape."""

import logging
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import nn

from node.perception.cuda_graph import CudaGraph
from node.perception.runtimes.inductor import Compiler
from node.perception.tasks.base import Outputs

log = logging.getLogger(__name__)

MOST_SHAPES = 16
"""Input shapes whose graph is kept. Another one runs without a graph: a segmentation of a folder of
photographs has as many shapes as photographs."""
COMPILED_AFTER = 30
"""Inferences of one shape after which it is compiled: the shapes of the warm-up have fewer."""
_TOLERANCE = 0.02
"""Largest difference of a compiled network's output, relative to the largest output, that the
rounding of 8 and 16 bits explains."""
_SAME_CLASS = 0.99
"""As `_TOLERANCE`, for maps of classes: the fraction of pixels of the same class."""


class GpuNetwork:
    """Runs a network on the GPU. Not thread-safe.

    A shape runs as the graph of the network's own operations first. After some inferences a thread
    compiles it, and the compiled graph replaces the first one between two inferences if it gives
    the same outputs in less time.

    Args:
        name: of the model, for the log.
        network: [n, height, width, 3] uint8 to a tuple of tensors, on the GPU.
        device: of the network.
        compiler: compiles it; None: no compilation.
    """

    def __init__(
        self, name: str, network: nn.Module, device: torch.device, compiler: Compiler | None
    ) -> None:
        self._name = name
        self._network = network
        self._device = device
        self._compiler = compiler
        self._graphs: dict[torch.Size, _Graph] = {}
        self._counts: dict[torch.Size, int] = {}
        self._compiling: tuple[torch.Size, Future[_Graph | None]] | None = None

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """Returns the outputs on the CPU, valid until the next call."""
        shape = pixels.shape
        graph = self._graphs.get(shape)
        if graph is None:
            if len(self._graphs) >= MOST_SHAPES:
                return tuple(output.cpu().numpy() for output in self._network(pixels))
            graph = self._graphs[shape] = _Graph(self._network, pixels.to(self._device))
        outputs = graph.run(pixels)
        if self._compiler is not None:
            self._compile(shape, graph, self._compiler)
        return outputs

    def wait_for_compilation(self, timeout_s: float) -> None:
        """Waits until the compilation under way, if any, has ended; the next inference uses it."""
        if self._compiling is not None:
            self._compiling[1].exception(timeout_s)

    def _compile(self, shape: torch.Size, graph: "_Graph", compiler: Compiler) -> None:
        """Takes a compiled graph that is ready, and begins the next compilation that is due."""
        if self._compiling is not None:
            compiled_shape, future = self._compiling
            if not future.done():
                return
            self._compiling = None
            compiled = future.result()
            if compiled is not None:
                self._graphs[compiled_shape] = compiled
        count = self._counts[shape] = self._counts.get(shape, 0) + 1
        if count == COMPILED_AFTER:
            pixels = graph.pixels.clone()
            self._compiling = shape, compiler.begin(lambda compiled: self._faster(compiled, pixels))

    def _faster(
        self, compiled: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], pixels: torch.Tensor
    ) -> "_Graph | None":
        """Returns the graph of the compiled network, None where the network's own is better. Runs
        on the compiler's thread, with graphs of its own."""
        own, new = _Graph(self._network, pixels), _Graph(compiled, pixels)
        if not _agree(new.outputs(pixels), own.outputs(pixels)):
            log.warning("model %s: compiled, it gives other outputs; not used", self._name)
            return None
        own_ms, new_ms = _milliseconds(own, new, pixels)
        used = new_ms < own_ms
        log.info(
            "model %s: compiled for %d x %d px, batch %d: %.2f ms, %.2f ms before%s",
            self._name, pixels.shape[2], pixels.shape[1], len(pixels), new_ms, own_ms,
            "" if used else "; not used",
        )  # fmt: skip
        return new if used else None


class _Graph:
    """A network as a CUDA graph for one input shape: one launch instead of hundreds.

    On the device `cpu` it runs the network at each call, which tests use on computers without a
    GPU.
    """

    def __init__(
        self,
        network: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
        pixels: torch.Tensor,
    ) -> None:
        self.pixels = pixels.clone()
        self._network = network
        self._graph: CudaGraph[None] | None = None
        with torch.inference_mode():
            if pixels.device.type == "cuda":
                self._record()

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
        return tuple(host_output.numpy() for host_output in self._host_outputs)

    def outputs(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns copies of the outputs."""
        with torch.inference_mode():
            return tuple(torch.from_numpy(output.copy()) for output in self.run(pixels))


def _agree(outputs: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
    return len(outputs) == len(expected) and all(
        _is_close(*pair) for pair in zip(outputs, expected, strict=True)
    )


def _is_close(output: torch.Tensor, expected: torch.Tensor) -> bool:
    if output.shape != expected.shape:
        return False
    if not expected.is_floating_point():
        return float((output == expected).float().mean()) >= _SAME_CLASS
    if not expected.numel():
        return True
    tolerance = _TOLERANCE * float(expected.abs().max())
    return float((output - expected).abs().max()) <= tolerance  # False for NaN


def _milliseconds(own: _Graph, new: _Graph, pixels: torch.Tensor) -> tuple[float, float]:
    """Returns the median times of two graphs, measured by turns: the GPU also labels frames."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(20):
            for graph, measured in zip((own, new), times, strict=True):
                started = time.perf_counter()
                graph.run(pixels)
                measured.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])
