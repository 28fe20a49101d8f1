"""The GPUs that torch can use. torch is imported only where a GPU's driver is loaded: the import
takes half a gigabyte and a second."""

import importlib.util
from pathlib import Path
from typing import Any

_DRIVERS = ("nvidiactl", "nvhost-gpu", "nvgpu", "nvmap", "kfd", "dxg")
"""In /dev: of NVIDIA's driver, of a Jetson's three versions of it, of AMD's, of Windows' Linux."""


def gpu_count() -> int:
    """Returns the number of GPUs; 0 without torch or without a driver."""
    return _torch().cuda.device_count() if _is_possible() else 0


def has_gpu() -> bool:
    """Whether torch can use a GPU."""
    return _is_possible() and bool(_torch().cuda.is_available())


def gpu_name() -> str:
    """Returns the name of the first GPU, `none` without one."""
    return str(_torch().cuda.get_device_name(0)) if has_gpu() else "none"


def _is_possible() -> bool:
    return importlib.util.find_spec("torch") is not None and any(
        Path("/dev", name).exists() for name in _DRIVERS
    )


def _torch() -> Any:
    import torch

    return torch
