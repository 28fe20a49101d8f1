"""Compiler: compiles torch networks with Inductor, on a thread of its own, while the node labels.

Inductor fuses the operations between the convolutions into kernels of its own, which it keeps in
the node's cache folder: a later start takes seconds instead of tens of seconds.
"""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import torch
from torch import nn

from node.perception.cache import cache_folder

log = logging.getLogger(__name__)

Compiled = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
Result = TypeVar("Result")
_NICENESS = 10
"""Of the thread: the inference has priority."""
_SWITCH_S = 0.0005
"""Python's switch interval during a compilation, which is Python for the most part: at the usual
5 ms each frame would wait that long at each of its steps."""
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_COMPILERS = ("cc", "gcc", "clang")


class Compiler:
    """Compiles one network, a shape at a time, each on a thread of its own.

    Args:
        name: of the model, for the log.
        network: in eval mode, on its device.
        compile: as `torch.compile`.
    """

    def __init__(
        self, name: str, network: nn.Module, compile: Callable[[nn.Module], Compiled] | None = None
    ) -> None:
        self._name = name
        self._network = network
        self._compile = compile or _by_inductor
        self._failed = False

    def begin(self, use: Callable[[Compiled], Result | None]) -> "Future[Result | None]":
        """Begins a compilation.

        Args:
            use: called on the thread with the compiled network, which its first call compiles for
                the shape of the input.

        Returns:
            The result of `use`; None if the compilation failed, which is logged. After a failure
            the network is not compiled again.
        """
        future: Future[Result | None] = Future()

        def run() -> None:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            future.set_result(self._result(use))

        if self._failed:
            future.set_result(None)
        else:
            threading.Thread(target=run, name="compile", daemon=True).start()
        return future

    def _result(self, use: Callable[[Compiled], Result | None]) -> Result | None:
        interval_s, started = sys.getswitchinterval(), time.monotonic()
        sys.setswitchinterval(_SWITCH_S)
        try:
            return use(self._compile(self._network))
        except Exception as error:  # whatever torch, Triton or a C compiler raises
            self._failed = True
            log.warning(
                "model %s: cannot be compiled (%s); it runs uncompiled",
                self._name, str(error).strip().partition("\n")[0] or repr(error),
            )  # fmt: skip
            return None
        finally:
            sys.setswitchinterval(interval_s)
            log.debug("compilation took %.1f s", time.monotonic() - started)


def missing_for_inductor() -> str | None:
    """Returns what Inductor needs on a GPU and this computer lacks; None if nothing."""
    from torch.utils._triton import has_triton

    if not has_triton():
        return "Triton"
    if not any(map(shutil.which, (os.environ.get("CC", "cc"), *_COMPILERS))):
        return "a C compiler"
    return None


def _by_inductor(network: nn.Module) -> Compiled:
    # Read at the import of Inductor. The usual folder is in /tmp, which a restart empties.
    os.environ.setdefault(_FOLDER, str(cache_folder() / "inductor"))
    import torch._inductor.config as inductor

    # Without a pool of processes that would stay for the life of the node.
    inductor.compile_threads = 1
    compiled: Compiled = torch.compile(network, dynamic=False)
    return compiled
