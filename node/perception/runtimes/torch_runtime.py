"""TorchRuntime: PyTorch on the CPU or a GPU, in float32, bfloat16 or float16."""

import numpy as np
import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.preprocess.normalise import Normalise
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.tasks.base import Outputs

_ALL_THREADS = torch.get_num_threads()
"""torch's default: one thread for each core."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """Runs a model's network with PyTorch, channels last, its BatchNorms folded.

    Keeps a copy of the network and leaves the model unchanged. On a GPU the network is captured as
    a CUDA graph for each batch size, and the CPU waits only for the outputs. Each inference sets
    torch's number of threads, which is one for the process.
    """

    degraded = ()

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        """Loads the network onto the device.

        Args:
            model: with a torch network.
            device: `cpu`, `cuda` or `cuda:N`.
            precision: `fp32`, `bf16` or `fp16`.
            threads: CPU threads; None: one for each core.

        Raises:
            ModelError: the device or the network is not available.
        """
        self._name = model.name
        self._threads = threads or _ALL_THREADS
        self._device = _checked_device(model.name, device)
        self.info = RuntimeInfo(runtime="torch", precision=precision, device=str(self._device))
        dtype = _DTYPES[precision]
        # Normalised in float32, then rounded once.
        network = nn.Sequential(Normalise(model.preprocess), _Round(dtype), folded(model).to(dtype))
        try:
            self._network = network.eval().to(self._device)
        except RuntimeError as error:
            raise self._failed(error) from error
        # A network that resizes by itself runs differently for each frame size, so it cannot be
        # captured.
        self._capturable = self._device.type == "cuda" and not model.preprocess.keeps_frame
        self._captured: dict[torch.Size, _Captured] = {}

    def infer(self, pixels: Pixels) -> Outputs:
        """As `Runtime.infer`; `pixels` may be on any device."""
        if isinstance(pixels, np.ndarray):
            pixels = torch.from_numpy(pixels)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                if self._capturable:
                    return self._replay(pixels)
                outputs = _tensors(self._network(pixels.to(self._device)))
                return tuple(output.float().cpu().numpy() for output in outputs)
        except RuntimeError as error:
            raise self._failed(error) from error

    def _replay(self, pixels: torch.Tensor) -> Outputs:
        if pixels.shape not in self._captured:
            self._captured[pixels.shape] = _Captured(self._network, pixels.to(self._device))
        return self._captured[pixels.shape].run(pixels)

    def _failed(self, error: Exception) -> ModelError:
        return ModelError(
            f"model {self._name!r}: failed on {self._device} ({_first_line(error)})",
            fix='free the device, or try model.device = "cpu" or another model',
        )


class _Round(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._dtype)


class _Captured:
    """A network as a CUDA graph for one input shape: one kernel launch instead of hundreds."""

    def __init__(self, network: nn.Module, pixels: torch.Tensor) -> None:
        self._pixels = pixels.clone()
        side = torch.cuda.Stream(pixels.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(pixels.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                # cuDNN selects its kernels and allocates memory before the capture.
                network(self._pixels)
        torch.cuda.current_stream(pixels.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads continue to upload frames during the capture.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = [output.float() for output in _tensors(network(self._pixels))]
        self._host_outputs = [
            torch.empty(output.shape, pin_memory=True) for output in self._outputs
        ]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, pixels: torch.Tensor) -> Outputs:
        self._pixels.copy_(pixels, non_blocking=True)
        self._graph.replay()
        for host_output, output in zip(self._host_outputs, self._outputs, strict=True):
            host_output.copy_(output, non_blocking=True)
        self._done.record()
        self._done.synchronize()
        return tuple(host_output.numpy() for host_output in self._host_outputs)


def _checked_device(model_name: str, requested: str) -> torch.device:
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    numbered = "cuda:0" if requested == "cuda" else requested
    if numbered not in available:
        raise ModelError(
            f"model {model_name!r}: device {requested!r} is not on this machine",
            fix=f"devices here: {', '.join(available)}",
        )
    return torch.device(numbered)


def _tensors(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else outputs


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
