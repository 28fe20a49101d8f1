"""CudaGraph: operations on a GPU that were recorded once and are launched as one.

A launch costs the CPU microseconds, and a network has hundreds.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")
_RECORDING = threading.Lock()
"""torch records one graph at a time."""


class CudaGraph(Generic[Result]):
    """Operations on tensors that keep their place; each replay computes them anew.

    Attributes:
        result: what the function returned; its tensors hold the last replay's values.
    """

    result: Result

    def __init__(self, function: Callable[[], Result], stream: "torch.cuda.Stream") -> None:
        """Records the operations of a function, which ran on the stream before: libraries allocate
        and select their kernels then.

        Args:
            function: operations on the GPU only, without waiting for it.
            stream: records the operations; no other thread uses it meanwhile.

        Raises:
            RuntimeError: an operation cannot be recorded.
        """
        self._graph = torch.cuda.CUDAGraph()
        with _RECORDING, torch.inference_mode(), torch.cuda.stream(stream):
            # Not torch.cuda.graph(): it waits for the GPU, collects garbage and empties the cache,
            # while other threads have frames in flight.
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.result = function()
            finally:
                self._graph.capture_end()

    def replay(self) -> None:
        """Launches the operations on the current stream."""
        self._graph.replay()
