"""The reason in an inference engine's error, as one line for a person."""

import re

ENGINE_ERRORS = (RuntimeError, UnicodeDecodeError)
"""What OpenVINO raises: the second for a message that quotes a damaged file, and so is no text."""
_MOST_CHARACTERS = 200
_PLACE = re.compile(r"Exception from |Check '.*' failed at |FrontEnd API failed |Summary:")
"""Lines of OpenVINO that name a line of its source code, or announce the next line."""
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def engine_reason(error: Exception) -> str:
    """Returns the reason in an error of ONNX Runtime, OpenVINO, onnx or torch, without the places
    in their source code, cut to a length that a terminal shows."""
    if isinstance(error, UnicodeDecodeError):
        return engine_reason(RuntimeError(bytes(error.object).decode(errors="replace")))
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not _PLACE.match(line)]
    reason = _CODE.sub("", " ".join(" ".join(reasons).split())).strip(" .")
    return reason[:_MOST_CHARACTERS] or type(error).__name__
