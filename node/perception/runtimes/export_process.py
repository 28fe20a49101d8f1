"""Exports a model in a process of its own: torch takes half a gigabyte, which a process gives back
only at its end, and an export beside a model that labels must not take the processor from it."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from node.errors import ModelError
from node.perception.cache import cache_folder
from node.perception.models.model import Model
from node.perception.models.torch_parts import check_torch
from node.perception.models.weights_file import WeightsError

_NICENESS = 3
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""torch's threads wait for each other asleep: awake they take the processor from a busy computer,
and from each other."""
_CODE = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request['path']; "
    "from node.perception.runtimes.export_process import child; child(request)"
)
"""The child finds the modules where this process does, and never in the working directory, which
may hold a folder `node` of its user's."""


def check_export_parts(name: str) -> None:
    """Raises TorchMissingError where what exports the model of this name is not installed."""
    check_torch(
        f"model {name!r}: has not been exported on this computer, which",
        or_else=f", or copy {cache_folder()} from a computer with torch that ran this model with "
        "openvino",
    )


def export_apart(model: Model, file: Path) -> None:
    """Exports a model that `load_model` made to an ONNX file. Raises ModelError, also for a child
    that cannot start or ends without a result, and OSError for a file that cannot be written."""
    check_export_parts(model.name)
    alive, held = os.pipe()
    request = {
        "path": [str(folder) for folder in sys.path],
        "origin": model.origin,
        "weights": None if model.weights is None else str(model.weights),
        "digest": model.digest,
        "file": str(file),
        "alive": alive,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CODE, json.dumps(request)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            pass_fds=(alive,), env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the node, which ends its child
        )  # fmt: skip
    except OSError as error:
        raise ModelError(
            f"model {model.name!r}: its export cannot start a process ({error.strerror})",
            fix="see how much memory and how many processes this user may have, and start again",
        ) from error
    finally:
        os.close(held)
        os.close(alive)
    _check(model, done)


def _check(model: Model, done: "subprocess.CompletedProcess[str]") -> None:
    *_, last = done.stdout.splitlines() or [""]
    try:
        result = json.loads(last)
    except ValueError:
        lines = done.stderr.strip().splitlines() or [""]
        reason = (
            f"ended by signal {signal.Signals(-done.returncode).name}"
            if done.returncode < 0
            else f"ended with exit code {done.returncode} {lines[-1]:.200}".rstrip()
        )
        raise ModelError(
            f"model {model.name!r}: its export {reason}",
            fix="see whether memory is left, and start again",
        ) from None
    if result and "errno" in result:
        raise OSError(result["errno"], result["problem"])
    if result:
        kind = WeightsError if result["of_weights"] else ModelError
        raise kind(result["problem"], fix=result["fix"])


def child(request: dict[str, Any]) -> None:
    """Exports as requested, and prints the error, or null, as the last line of stdout."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with, args=(request["alive"],), daemon=True).start()
    error = _exported(request)
    print(f"\n{json.dumps(error and _as_map(error))}", flush=True)  # torch may have printed before
    os._exit(0)  # what torch does at its end takes time


def _as_map(error: ModelError | OSError) -> dict[str, Any]:
    if isinstance(error, OSError):
        return {"problem": error.strerror or str(error), "errno": error.errno}
    of_weights = isinstance(error, WeightsError)
    return {"problem": error.problem, "fix": error.fix, "of_weights": of_weights}


def _exported(request: dict[str, Any]) -> ModelError | OSError | None:
    from node.perception.models.registry import load_model
    from node.perception.runtimes.export_network import export_network

    weights = request["weights"]
    try:
        model = load_model(request["origin"], weights and Path(weights))
        if model.digest != request["digest"]:
            raise ModelError(
                f"model {model.name!r}: its files changed while they were in use", fix="start again"
            )
        export_network(model, Path(request["file"]))
    except (ModelError, OSError) as error:
        return error
    return None


def _end_with(descriptor: int) -> None:
    """Ends this process with the one that holds the other end of a pipe."""
    os.read(descriptor, 1)
    os._exit(1)
