"""Attacks by the author of a file or a stream: pictures, videos, recordings and models that claim
to be huge, run code when they are loaded, or have another file of this computer published."""

import http.server
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bombs
import lz4.frame
import onnx
import torch
from attack import Attack, Budget, Outcome
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as PilImage
from torch import nn

from node.cli import command_line
from node.errors import ModelError
from node.perception.models.registry import load_model

torch.set_num_threads(1)  # a pool of threads would not survive the forks

MOST_GROWN_MIB, MOST_SLOWER_S, DEADLINE_S = 50.0, 5.0, 60.0
"""Slower: all the bombs of an attack together, on a computer with other work."""
SECRET = "the-secret-of-another-user"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ended. peak_mib: the most memory that it ever had."""

    code: int
    said: str
    seconds: float
    peak_mib: float


def command(*arguments: object, deadline_s: float = DEADLINE_S) -> Ended:
    """Runs a command of the node to its end, which comes by force at the deadline."""
    return _forked(lambda: command_line([str(word) for word in arguments]), deadline_s)


def _forked(work: Callable[[], int], deadline_s: float = DEADLINE_S) -> Ended:
    """Runs work in a fork of this process, which has imported what all commands need."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        end = threading.Timer(deadline_s, os.kill, (process, signal.SIGKILL))
        end.start()
        _, status, usage = os.wait4(process, 0)
        end.cancel()
        output.seek(0)
        text = output.read()
    return Ended(
        os.waitstatus_to_exitcode(status), text, time.monotonic() - started,
        usage.ru_maxrss * 1024 / bombs.MIB,
    )  # fmt: skip


def _judged(tried: str, plain: Ended, attacked: Ended, wrong: list[str], code: int = 0) -> Outcome:
    """Compares a command with and without the hostile files."""
    grown, slower = attacked.peak_mib - plain.peak_mib, attacked.seconds - plain.seconds
    if grown > MOST_GROWN_MIB:
        wrong.append(f"it took {grown:.0f} MiB more")
    if slower > MOST_SLOWER_S:
        wrong.append(f"it took {slower:.1f} s longer")
    if attacked.code != code or "Traceback" in attacked.said:
        wrong.append(f"it ended with {attacked.code}: {attacked.said[-300:]}")
    return Outcome(tried, tuple(wrong), {"grown_mib": grown, "slower_s": slower})


def pictures(budget: Budget) -> Outcome:
    """A folder with a good picture, a good video and a bomb of each kind."""
    plain, hostile = budget.folder / "plain", budget.folder / "hostile"
    for folder in (plain, hostile):
        folder.mkdir()
        PilImage.new("RGB", (640, 480), "grey").save(folder / "good.png")
        (folder / "good.mp4").write_bytes(bombs.h264(64, 64, frames=5))
    sizes = [(16000, 16000), (8500, 8500)]
    for number, (width, height) in enumerate(sizes):
        for suffix, made in bombs.PICTURES.items():
            (hostile / f"bomb{number}{suffix}").write_bytes(made(width, height))
    (hostile / "scans.jpg").write_bytes(bombs.jpeg_of_scans(4000, 3000, 900))
    (hostile / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (hostile / "video.mp4").write_bytes(bombs.h264(10240, 10240))
    os.mkfifo(hostile / "pipe.jpg")
    without, attacked = (command("label", folder, "--jsonl", "-") for folder in (plain, hostile))
    files = len(list(hostile.iterdir()))
    bad = files - 2
    wrong = []
    if f"6 labelled, {bad} of {files} files skipped" not in attacked.said:
        wrong.append(f"not all of {bad} were skipped: {attacked.said[-200:]}")
    return _judged(
        f"label of {bad} bombs beside a good picture and video", without, attacked, wrong, code=3
    )


@contextmanager
def _motion_jpeg(pictures: Sequence[bytes]) -> Iterator[str]:
    """A camera that sends these in turn, ten a second; its address."""
    ended = threading.Event()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            index = 0
            try:
                while not ended.wait(0.1):
                    picture = pictures[index % len(pictures)]
                    head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n"
                    self.wfile.write(head.encode() + b"\r\n" + picture + b"\r\n")
                    index += 1
            except OSError:
                return

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="camera")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/stream"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def stream(budget: Budget) -> Outcome:
    """A camera whose pictures claim to be huge now and then."""
    noise = [os.urandom(96 * 64 * 3) for _ in range(6)]
    good = [_as_jpeg(PilImage.frombytes("RGB", (96, 64), pixels)) for pixels in noise]
    bad = [bombs.jpeg(60000, 60000), bombs.jpeg(16000, 16000), bombs.jpeg_of_scans(4000, 3000, 99)]
    mixed = [picture for pair in zip(good[:3], bad, strict=True) for picture in pair] + good[3:]
    ended = []
    for number, sent in enumerate((good, mixed)):
        endpoint = f"ipc://{budget.folder}/labels{number}"
        with _motion_jpeg(sent) as address:
            ended.append(
                command("run", "--source", address, "--endpoint", endpoint, "--max-frames", 12)
            )
    return _judged("run on a stream with every fourth picture a bomb", ended[0], ended[1], [])


def _as_jpeg(picture: PilImage.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def recordings(budget: Budget) -> Outcome:
    """Chunks that unpack to more than they say, or say that they do."""
    plain, hostile = budget.folder / "plain", budget.folder / "hostile"
    packed = {
        "lies": ("zstd", bombs.zeros(4), 1000),
        "claims": ("zstd", bombs.zeros(1), 1 << 30),
        "lz4": ("lz4", lz4.frame.compress(bytes(1 << 29)), 1000),
        "plain": ("", bytes(1000), 1 << 40),
    }
    for folder in (plain, hostile):
        folder.mkdir()
        (folder / "cut.mcap").write_bytes(bombs.chunk("", bytes(40), 40))
    for name, (compression, data, length) in packed.items():
        (hostile / f"{name}.mcap").write_bytes(bombs.chunk(compression, data, length))
    with (hostile / "sparse.mcap").open("wb") as stream:
        stream.write(b"\x89MCAP0\r\n")
        stream.truncate(1 << 40)
    without, attacked = (command("recover", folder) for folder in (plain, hostile))
    wrong = [] if "6 of 6 files" in attacked.said else [f"not all were told: {attacked.said}"]
    return _judged(f"recover of {len(packed) + 1} bombs", without, attacked, wrong, code=3)


class Small(nn.Module):
    """A classifier that is exported in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.last(torch.relu(x.mean((2, 3))))
        return logits


Change = Callable[[Any, str], None]


def _size(program: Any, code: str) -> None:
    tensors = program["graph_module"]["graph"]["tensor_values"].values()
    size = next(
        dimension for tensor in tensors for dimension in tensor["sizes"] if "as_expr" in dimension
    )
    size["as_expr"]["expr_str"] = code


def _guard(program: Any, code: str) -> None:
    program["guards_code"] = [code]


def _file(program: Any, code: str) -> None:
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.aten.from_file.default"
    arguments = {"filename": {"as_string": code.split("'")[3]}, "shared": {"as_bool": True}}
    node["inputs"] = [
        {"name": name, "arg": argument, "kind": 1}
        for name, argument in {**arguments, "size": {"as_int": 9}}.items()
    ]


def _function(program: Any, code: str) -> None:
    node = program["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.os.mkdir"
    node["inputs"] = [{"name": "", "arg": {"as_string": code.split("'")[3]}, "kind": 1}]


def _name(program: Any, code: str) -> None:
    changed = json.dumps(program).replace('"mean"', json.dumps(f"mean = {code}; mean"))
    program.update(json.loads(changed))


TRICKS: dict[str, Change] = {
    "size": _size, "guard": _guard, "file": _file, "function": _function, "name": _name,
}  # fmt: skip
CARD = 'name = "mine"\ntask = "classify"\nlabels = {labels}\n[input]\nsize = [32, 32]\n'


def _load(files: Sequence[str]) -> int:
    """Loads models, and prints a line for each."""
    for file in files:
        try:
            load_model(file).network  # noqa: B018
            print(file, "was loaded")
        except ModelError as error:
            print(error)
    return 0


def code(budget: Budget) -> Outcome:
    """Exported programs that run something when they are loaded."""
    good = budget.folder / "good.pt2"
    free = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(Small(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=free)
    torch.export.save(program, good)
    traces = []
    for name, change in TRICKS.items():
        trace = budget.folder / f"{name}-ran"
        traces.append(trace)
        _rewrite(good, budget.folder / f"{name}.pt2", change, f"__import__('os').mkdir('{trace}')")
        (budget.folder / f"{name}.toml").write_text(CARD.format(labels='["a", "b", "c"]'))
    files = [str(budget.folder / f"{name}.pt2") for name in TRICKS]
    ended = _forked(lambda: _load(files))
    ran = [trace.name for trace in traces if trace.exists()]
    wrong = [f"{name}: code of a model file" for name in ran]
    if ended.code or len(ended.said.splitlines()) != len(files):
        wrong.append(f"not each was answered in a line: {ended.said[-300:]}")
    # What a guard holds is left out, so such a program is loaded.
    loaded = ended.said.count("was loaded")
    if loaded > 1:
        wrong.append(f"{loaded} were loaded")
    figures = {"commands_run": len(ran), "seconds": ended.seconds}
    return Outcome(f"{len(files)} .pt2 files with code in them", tuple(wrong), figures)


def _rewrite(good: Path, bad: Path, change: Change, code: str) -> None:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                change(program, code)
                content = json.dumps(program).encode()
            target.writestr(f"x/{name.partition('/')[2]}", content)


def other_files(budget: Budget) -> Outcome:
    """Cards and ONNX files that name a file which only the node may read."""
    folder = budget.folder / "model"
    folder.mkdir()
    secret = budget.folder / "secret.txt"
    secret.write_text(f"{SECRET}\nb\nc\n" + "x" * 100)
    (folder / "link.txt").symlink_to(secret)
    PilImage.new("RGB", (40, 40)).save(folder / "p.png")
    tried = [
        ('"../secret.txt"', None), (f'"{secret}"', None), ('"link.txt"', None),
        ('["a", "b", "c"]', "../secret.txt"), ('["a", "b", "c"]', str(secret)),
    ]  # fmt: skip
    files = []
    for number, (labels, tensors) in enumerate(tried):
        file = folder / f"m{number}.onnx"
        file.write_bytes(_onnx(tensors))
        file.with_suffix(".toml").write_text(CARD.format(labels=labels))
        files.append(str(file))
    first = command("label", folder / "p.png", "--model", files[0], "--jsonl", "-")
    rest = _forked(lambda: _load(files[1:]))
    published = (first.said + rest.said).count(SECRET) + rest.said.count("was loaded")
    wrong = [f"{published} files were published or loaded"] * bool(published)
    if first.code != 3 or rest.said.count("is not in its folder") != len(files) - 1:
        wrong.append(f"not each was refused: {first.said[-200:]} {rest.said[-300:]}")
    return Outcome(
        f"{len(files)} models that name other files", tuple(wrong), {"files_published": published}
    )


def _onnx(tensors_in: str | None) -> bytes:
    def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    bias = numpy_helper.from_array(torch.zeros(3).numpy(), "b")
    if tensors_in is not None:
        bias.ClearField("raw_data")
        bias.data_location = TensorProto.EXTERNAL
        bias.external_data.add(key="location", value=tensors_in)
    graph = helper.make_graph(
        nodes, "g", [value("x", ["n", 3, 32, 32])], [value("y", ["n", 3])], [bias]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


ATTACKS = (
    Attack("pictures that claim to be huge", pictures),
    Attack("a stream whose pictures claim to be huge", stream),
    Attack("recordings that unpack to gigabytes", recordings),
    Attack("models that run code", code),
    Attack("models that name other files", other_files),
)
