"""Downloads a file over HTTP, with a progress bar on a terminal."""

import http.client
import os
import secrets
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

DOWNLOAD_ERRORS = (OSError, http.client.HTTPException)
"""What `download` raises."""
MOST_BYTES = 4 << 30
"""Largest download; torchvision's largest file has 2.5 GB."""
_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 18


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirects from https only to https: over http an attacker could replace the file."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise OSError("the server sends on from https to an address that is not")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_StaysEncrypted)


def download(url: str, target: Path, check: Callable[[Path], None]) -> None:
    """Downloads to a temporary name and then renames, so that no other process sees a partial file.

    Args:
        url: address of the file.
        target: where it is kept.
        check: raises OSError for a file that must not get its name.

    Raises:
        OSError, HTTPException: as DOWNLOAD_ERRORS.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with (
            _OPENER.open(url, timeout=_TIMEOUT_S) as response,
            part.open("wb") as stream,
            _progress() as progress,
        ):
            size = response.headers.get("Content-Length")
            total = int(size) if size and size.isdigit() else None
            if total is not None and total > MOST_BYTES:
                raise OSError(f"the server claims {total} bytes; at most {MOST_BYTES} are taken")
            task = progress.add_task(target.name, total=total)
            received = _copy(response, stream, lambda n: progress.advance(task, n))
        if total is not None and received != total:
            raise OSError(f"the connection ended after {received} of {total} bytes")
        check(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO, advance: Callable[[int], None]) -> int:
    received = 0
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        advance(len(chunk))
        received += len(chunk)
        if received > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES} bytes came")
    return received


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        "downloading {task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
