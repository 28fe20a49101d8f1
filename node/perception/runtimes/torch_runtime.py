"""TorchRuntime: PyTorch on the CPU or a GPU, in float32, bfloat16 or float16."""

import numpy as np
import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.preprocess.normalise import Normalise
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.runtimes.class_map import ClassMap
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.runtimes.gpu_network import GpuNetwork
from node.perception.runtimes.inductor import compiled
from node.perception.tasks.base import Outputs
from node.perception.tasks.segment import MOST_CLASSES

_ALL_THREADS = torch.get_num_threads()
"""torch's default: one thread for each core."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """Runs a model's network with PyTorch, channels last, its BatchNorms folded.

    Keeps a copy of the network and leaves the model unchanged. On a GPU the network is a CUDA graph
    for each input shape (`GpuNetwork`), and the CPU waits only for the outputs. Each inference sets
    torch's number of threads, which is one for the process.
    """

    degraded = ()

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        *,
        compiles: bool = False,
    ) -> None:
        """Loads the network onto the device.

        Args:
            model: with a torch network.
            device: `cpu`, `cuda` or `cuda:N`.
            precision: `fp32`, `bf16` or `fp16`.
            threads: CPU threads; None: one for each core.
            compiles: on a GPU, compiles the network with Inductor, for single frames of a fixed
                size. Takes seconds, the first time tens of seconds.

        Raises:
            ModelError: the device or the network is not available.
        """
        self._name = model.name
        self._threads = threads or _ALL_THREADS
        self._device = _checked_device(model.name, device)
        self.info = RuntimeInfo(runtime="torch", precision=precision, device=str(self._device))
        dtype = _DTYPES[precision]
        # Normalised in float32, then rounded once.
        network = nn.Sequential(
            Normalise(model.preprocess), _Round(dtype), folded(model).to(dtype), _Outputs()
        )
        on_gpu = self._device.type == "cuda"
        if on_gpu and model.task == "segment" and len(model.label_names) <= MOST_CLASSES:
            network.append(ClassMap())
        try:
            self._network = network.eval().to(self._device)
        except RuntimeError as error:
            raise self._failed(error) from error
        # A network that resizes by itself runs differently for each frame size, so it has no graph.
        self._on_gpu = (
            GpuNetwork(model.name, self._network, self._device)
            if on_gpu and not model.preprocess.keeps_frame
            else None
        )
        if compiles and self._on_gpu is not None and not model.preprocess.free_size:
            self._compile(self._on_gpu, model.preprocess.crop_px)

    def infer(self, pixels: Pixels) -> Outputs:
        """As `Runtime.infer`; `pixels` may be on any device."""
        if isinstance(pixels, np.ndarray):
            pixels = torch.from_numpy(pixels)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                if self._on_gpu is not None:
                    return self._on_gpu.infer(pixels)
                outputs = self._network(pixels.to(self._device))
                return tuple(output.cpu().numpy() for output in outputs)
        except RuntimeError as error:
            raise self._failed(error) from error

    @property
    def is_compiled(self) -> bool:
        """Whether Inductor has compiled the network, which is then faster."""
        return self._on_gpu is not None and self._on_gpu.is_compiled

    def _compile(self, network: GpuNetwork, size: tuple[int, int]) -> None:
        # Random levels: on a black frame most activations are equal, and a wrong one shows nowhere.
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=generator)
        try:
            network.compile(compiled, pixels)
        except RuntimeError as error:
            raise self._failed(error) from error

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


class _Outputs(nn.Module):
    """The outputs as a tuple of float32."""

    def forward(self, outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if isinstance(outputs, torch.Tensor):
            return (outputs.float(),)
        return tuple(output.float() for output in outputs)


def _checked_device(model_name: str, requested: str) -> torch.device:
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    numbered = "cuda:0" if requested == "cuda" else requested
    if numbered not in available:
        raise ModelError(
            f"model {model_name!r}: device {requested!r} is not on this machine",
            fix=f"devices here: {', '.join(available)}",
        )
    return torch.device(numbered)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
