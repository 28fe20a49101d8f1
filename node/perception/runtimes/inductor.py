"""Compiles torch networks with Inductor, which fuses the operations between the convolutions.

Inductor keeps its kernels in the node's cache folder: a later start takes seconds instead of tens
of seconds.
"""

import os
import shutil
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from node.errors import ModelError
from node.perception.cache import cache_folder

Compiled: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_C_COMPILERS = ("cc", "gcc", "clang")


def compiled(network: nn.Module) -> Compiled:
    """Returns a network that its first call compiles, for the shape of the input; a network in
    eval mode, on a GPU.

    Raises:
        ModelError: this computer lacks what Inductor needs.
    """
    missing = _missing()
    if missing is not None:
        raise ModelError(f"Inductor needs {missing}, which this computer lacks")
    # Read at each use. The usual folder is in /tmp, which a restart empties.
    os.environ.setdefault(_FOLDER, str(cache_folder() / "inductor"))
    import torch._inductor.config as inductor

    # Without a pool of processes that would stay for the life of the node.
    inductor.compile_threads = 1
    result: Compiled = torch.compile(network, dynamic=False)
    return result


def _missing() -> str | None:
    from torch.utils._triton import has_triton

    if not has_triton():
        return "Triton"
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), *_C_COMPILERS))):
        return "a C compiler"
    return None
