"""Names and places of files: whatever a file system holds is read, or named in one line."""

import os
import shutil
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, Run
from PIL import Image as PilImage

from node.capture.sources.image_files import find_image_files
from node.capture.sources.open import open_file, open_source
from node.config.schema import CameraConfig
from node.errors import SourceError
from perception_client.paths import matching, natural

NOT_UTF8 = b"n\xff\xfet"


def put(path: Path, shade: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        PilImage.new("RGB", (20, 16), (shade, shade, shade)).save(file, "PNG")
    return path


def names(source: Path | str) -> list[str]:
    return [file.name for file in find_image_files(str(source)) or []]


def test_numbers_are_in_their_order(tmp_path: Path) -> None:
    expected = ["2.png", "10.png", "a1b2.png", "a1b12.png", "a02.png", "a10.png", "b.png"]
    for name in reversed(expected):
        put(tmp_path / name)
    assert names(tmp_path) == names(tmp_path / "*.png") == expected
    folders = [Path("01/z"), Path("1/a"), Path("run9/x"), Path("run10/a"), Path("run10/a1")]
    folders.append(Path("run" + "1" * 200))
    assert sorted(reversed(folders), key=natural) == folders


@pytest.mark.parametrize(
    ("folder", "pattern", "count"),
    [
        ("clips [2024]", "clips [2024]/*.png", 2),
        ("a*b", "a*b/[ab].png", 2),
        ("what?", "what?/**/?.png", 2),
        ("[x]/[y]", "[x]/[y]/*.png", 2),
        ("plain/[1]", "p*/[[]1]/a.png", 1),
        ("plain/[1]", "p*/[1]/a.png", 1),
        ("drive [7]x", "drive [7]*/*.png", 2),
        ("d1", "d[0-9]/*.png", 2),
    ],
)
def test_signs_of_a_pattern_in_a_name_are_a_name(
    tmp_path: Path, folder: str, pattern: str, count: int
) -> None:
    for name in ("a.png", "b.png"):
        put(tmp_path / folder / name)
    assert len(names(f"{tmp_path}/{pattern}")) == count


def test_a_file_with_the_signs_of_a_pattern_is_one_file(tmp_path: Path) -> None:
    for name in ("img[1].png", "img1.png", "*.png", "?.png"):
        put(tmp_path / name)
    for name in ("img[1].png", "*.png", "?.png"):
        assert names(tmp_path / name) == [name]


def test_a_pattern_begins_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "x" / "a" / "1.png")
    put(tmp_path / "x" / "a" / "b" / "2.png")
    monkeypatch.chdir(tmp_path / "x")
    assert matching(Path("a/*.png")) == [Path("a/1.png")]
    assert matching(Path("../*/a/**/*.png")) == [Path("../x/a/1.png"), Path("../x/a/b/2.png")]


def test_a_circle_of_links_gives_each_file_once(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "a" / "b" / "2.png")
    put(tmp_path / "a" / ".hidden" / "3.png")
    (tmp_path / "a" / "b" / "up").symlink_to("..")
    for pattern in ("**/*.png", "a/**"):
        assert names(f"{tmp_path}/{pattern}") == ["1.png", "2.png"]


def test_a_motion_jpeg_is_a_video(tmp_path: Path) -> None:
    pictures = [cv2.imencode(".jpg", np.full((32, 32, 3), 9 * n, np.uint8))[1] for n in range(5)]
    (tmp_path / "v.mjpeg").write_bytes(b"".join(picture.tobytes() for picture in pictures))
    source = open_file(tmp_path / "v.mjpeg")
    assert len(list(iter(source.read, None))) == 5


def test_an_address_of_a_file_may_have_escapes(tmp_path: Path) -> None:
    put(tmp_path / "a b#1" / "50%.png")
    put(tmp_path / "50%25" / "x.png")
    for address in ("a%20b%231", "a b#1", "a%20b%231/50%25.png", "50%25"):
        source = open_source(CameraConfig(source=f"file://{tmp_path}/{address}"))
        assert source.read() is not None


def test_what_a_name_lacks_the_content_says(tmp_path: Path) -> None:
    picture = put(tmp_path / "without suffix")
    assert open_file(picture).read() is not None
    put(tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(SourceError, match=r"text\.jpg: is not a picture that can be read"):
        open_file(tmp_path / "text.jpg").read()
    put(tmp_path / "a.jpg")  # a PNG by its content
    assert open_file(tmp_path / "a.jpg").read() is not None


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "x.nfo", "list.ans", "drive.mp4"])
def test_a_text_is_no_video(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Read this page before you start: Ελληνικά.\n" * 300)
    with pytest.raises(SourceError, match="is a text, neither a picture nor a video; pictures end"):
        open_source(CameraConfig(source=str(tmp_path / name)))
    with pytest.raises(SourceError, match="is a text"):
        open_file(tmp_path / name)


def test_a_recording_is_for_replay(tmp_path: Path) -> None:
    (tmp_path / "drive.mcap").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(SourceError, match=r"is a recording; label it with: perception-node replay"):
        open_file(tmp_path / "drive.mcap")


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are UTF-8")
def test_a_name_that_is_no_text_costs_no_crash(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), NOT_UTF8)
    picture = put(Path(os.fsdecode(folder)) / os.fsdecode(NOT_UTF8 + b".png"))
    assert open_file(picture).read() is not None
    assert len(find_image_files(str(picture.parent)) or []) == 1
    video = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    broken = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xe9.avi")))
    shutil.copy(video, broken)
    assert open_file(broken).read() is not None


def test_every_command_names_what_is_no_text(in_process: Run, tmp_path: Path) -> None:
    name = os.fsdecode(NOT_UTF8)
    for arguments in (
        ("run", "--source", name),
        ("replay", tmp_path / name),
        ("record", "--output", tmp_path / name),
        ("label", tmp_path / name),
        ("label", tmp_path, "--model", name),
        ("label", "a\0b.png"),
        ("label", ""),
        ("watch", "--camera", name, "--timeout", 0.1),
        ("config", "check", name),
        ("report", name),
    ):
        done = in_process(*arguments)
        assert done.returncode in (1, 2, 3), arguments
        assert len(done.stderr.splitlines()) == 1, done.stderr


def strange_folder(folder: Path) -> int:
    """Fills a folder with what file systems hold; returns the number of readable pictures."""
    good = ["1.PNG", "10.png", "2.Png", "sub/3.png", "dir.jpg/4.png", "line\nfeed.png", "% #?.png"]
    good += ["😀.png", "é.png", unicodedata.normalize("NFD", "ü.png"), "n" * 251 + ".png"]
    for name in good:
        put(folder / name)
    (folder / "sub" / "loop").symlink_to("..")
    elsewhere = folder.parent / "elsewhere"
    put(elsewhere / "5.png")
    (folder / "link").symlink_to(elsewhere)
    put(folder / ".hidden.png")
    put(folder / ".thumbnails" / "x.png")
    (folder / "notes.txt").write_text("a note")
    (folder / "empty").mkdir()
    return len(good) + 1


BAD = {
    "dangling.jpg": "the link leads to no file",
    "round.jpg": "Too many levels of symbolic links",
    "pipe.jpg": "is not a regular file",
    "socket.png": "is not a regular file",
    "zero.tif": "is empty (0 bytes)",
    "phone.heic": "is not a picture that can be read; convert it to JPEG or PNG",
}


def test_label_takes_a_strange_folder_and_names_or_counts_the_rest(
    in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    good = strange_folder(folder)
    out = tmp_path / "out.jsonl"
    done = in_process("label", folder, "--jsonl", out)
    assert done.returncode == 0, done.stderr
    assert f"{good} labelled, 0 skipped" in done.stderr
    assert "3 other files left out (2 hidden, 1 .txt)" in done.stderr
    labelled = out.read_text().splitlines()
    assert len(labelled) == good
    assert [line for line in labelled if "/1.PNG" in line] + [
        line for line in labelled if "/2.Png" in line
    ] == [line for line in labelled if "/1.PNG" in line or "/2.Png" in line]

    monkeypatch.chdir(folder)
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "round.jpg").symlink_to("round.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.tif").touch()
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        done = in_process("label", ".", "missing.png", "rtsp://user:secret@host/x", "--jsonl", out)
    assert done.returncode == 3
    for name, reason in BAD.items():
        assert any(f"{name}" in line and reason in line for line in done.stderr.splitlines()), name
    assert "missing.png: there is no such file" in done.stderr
    assert "label it with: perception-node run --source rtsp://host/..." in done.stderr
    assert "secret" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {good} labelled, 8 of {good + 8} files skipped: 2 ")
    assert len(out.read_text().splitlines()) == good


def test_a_folder_that_cannot_be_read_is_named(in_process: Run, tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(20):  # longer than a path may be
        deep = deep / ("d" * 240)
    put(tmp_path / "good.png")
    current = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(20):
            os.mkdir("d" * 240)
            os.chdir("d" * 240)
    finally:
        os.chdir(current)
    done = in_process("label", tmp_path)
    assert done.returncode == 3
    assert "1 labelled, 1 of 2 files skipped: 1 cannot be read: File name too long" in done.stderr
    done = in_process("label", deep)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_each_page_after_the_first_is_named_by_its_number(in_process: Run, tmp_path: Path) -> None:
    pages = [PilImage.new("L", (20, 16), shade) for shade in (40, 120, 200)]
    file = tmp_path / "scan.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:])
    done = in_process("label", put(tmp_path / "a.png"), file)
    assert done.returncode == 0, done.stderr
    heads = [line.split(": ")[0] for line in done.stdout.splitlines()]
    assert heads == [f"{tmp_path}/a.png", f"{file}", f"{file} page 2", f"{file} page 3"]


def test_what_a_pattern_matches_beside_pictures_is_counted(in_process: Run, tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "n.txt").write_text("a note")
    (tmp_path / "sub.mp4").mkdir()
    done = in_process("label", f"{tmp_path}/*")
    assert done.returncode == 0
    assert "2 other files left out (1 .txt, 1 folders)" in done.stderr
    done = in_process("label", f"{tmp_path}/*.t*")
    assert done.returncode == 3
    assert "*.t* matches no picture and no video; 1 other file left out (1 .txt)" in done.stderr
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "drive.mcap").write_bytes(b"")
    done = in_process("label", tmp_path / "runs")
    assert (done.returncode, f"perception-node replay {tmp_path}/runs" in done.stderr) == (3, True)
    done = in_process("label", f"{tmp_path}/*.jpg")
    assert done.returncode == 3
    assert "*.jpg: nothing matches; put a glob in quotes" in done.stderr


def test_a_mistyped_name_gets_the_nearest(in_process: Run, tmp_path: Path) -> None:
    put(tmp_path / unicodedata.normalize("NFD", "café.png"))
    done = in_process("label", tmp_path / "café.png")
    assert done.returncode == 3
    assert "there is no such file or folder; there is 'cafe" in done.stderr
    done = in_process("label", tmp_path / "nothing")
    assert "there is no such file or folder; check the name" in done.stderr


def test_replay_skips_what_cannot_be_read_and_says_so_at_its_end(
    in_process: Run, tmp_path: Path
) -> None:
    for number in (1, 3, 20):
        put(tmp_path / f"{number}.png")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out.jsonl"
    done = in_process("replay", tmp_path, "--speed", "max", "--jsonl", out)
    assert done.returncode == 3
    assert len(out.read_text().splitlines()) == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: 2 labelled, 1 of 3 files skipped: 1 cannot be read"
    )
    done = in_process("replay", tmp_path / "3.png", "--speed", "max", "--jsonl", out)
    assert done.returncode == 3
    assert "3.png: 1 of 1 files skipped: 1 cannot be read" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_a_home_can_load_every_engine() -> None:
    if not all(folder.stat().st_mode & 1 for folder in Path(sys.executable).resolve().parents):
        pytest.skip("other users cannot run this Python")
    program = "from node.__main__ import _ensure_home; _ensure_home(); import openvino; print('ok')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT}/client"},
        user=54_321,
        group=54_321,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.stdout.endswith("ok\n"), done.stderr
