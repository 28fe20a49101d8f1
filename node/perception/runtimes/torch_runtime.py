"""TorchRuntime: PyTorch on the CPU or on a GPU, in float32, bfloat16 or float16."""

import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.preprocess.geometry import Normalise
from node.perception.runtimes.base import RuntimeInfo
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.tasks.base import Outputs

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """Runs a model's network as PyTorch does, channels last, with its BatchNorms folded.

    Keeps a copy of the network; the model stays as it was. On a GPU the network is captured as a
    CUDA graph for each batch size, and the answer is the only thing that is waited for. How many
    threads PyTorch uses is for the caller to set (torch.set_num_threads).
    """

    degraded = ()

    def __init__(self, model: Model, device: str = "cpu", precision: str = "fp32") -> None:
        """device: `cpu`, `cuda` or `cuda:N`; precision: `fp32`, `bf16` or `fp16`.

        Raises ModelError where that cannot be used.
        """
        self._name = model.name
        self._device = _checked_device(model.name, device)
        self.info = RuntimeInfo(runtime="torch", precision=precision, device=str(self._device))
        if model.build is None:
            raise ModelError(
                f"model {model.name!r}: torch cannot run {model.graph}; "
                'write model.runtime = "auto"'
            )
        dtype = _DTYPES[precision]
        # Normalised in float32, then rounded once.
        network = nn.Sequential(Normalise(model.preprocess), _Round(dtype), folded(model).to(dtype))
        try:
            self._network = network.eval().to(self._device)
        except RuntimeError as error:
            raise self._failed(error) from error
        # What a network that resizes by itself does depends on the frame; it cannot be captured.
        self._capturable = self._device.type == "cuda" and model.preprocess.fit != "none"
        self._captured: dict[torch.Size, _Captured] = {}

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """Outputs for a batch.

        pixels: [n, height, width, 3] uint8 BGR, what `Preprocessor` made, on any device; not kept.
        Returns float32 arrays, valid until the next call. Raises ModelError where PyTorch fails.
        """
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
            f"model {self._name!r}: failed on {self._device} ({_first_line(error)}); "
            'free the device, or try model.device = "cpu" or another model'
        )


class _Round(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._dtype)


class _Captured:
    """A network on a GPU as a CUDA graph: one launch instead of hundreds, for one input shape."""

    def __init__(self, network: nn.Module, pixels: torch.Tensor) -> None:
        self._pixels = pixels.clone()
        side = torch.cuda.Stream(pixels.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(pixels.device))
        with torch.cuda.stream(side):
            for _ in range(3):  # cuDNN chooses its kernels and allocates before the capture
                network(self._pixels)
        torch.cuda.current_stream(pixels.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads go on uploading their frames meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = [output.float() for output in _tensors(network(self._pixels))]
        self._answers = [torch.empty(x.shape, pin_memory=True) for x in self._outputs]
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, pixels: torch.Tensor) -> Outputs:
        self._pixels.copy_(pixels, non_blocking=True)
        self._graph.replay()
        for answer, output in zip(self._answers, self._outputs, strict=True):
            answer.copy_(output, non_blocking=True)
        self._done.record()
        self._done.synchronize()
        return tuple(answer.numpy() for answer in self._answers)


def _checked_device(model_name: str, wanted: str) -> torch.device:
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    numbered = "cuda:0" if wanted == "cuda" else wanted
    if numbered not in here:
        raise ModelError(
            f"model {model_name!r}: device {wanted!r} is not on this machine; "
            f"devices here: {', '.join(here)}"
        )
    return torch.device(numbered)


def _tensors(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else outputs


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
