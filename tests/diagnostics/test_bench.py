"""The measuring tools measure: short real runs, and the arithmetic of a profile."""

import json
import sys
import time
from dataclasses import replace

import pytest
from conftest import ROOT, Run
from support import commands

from node.diagnostics.latency_profile import Profiler, Spread
from perception_client.messages.kinds import LabelsMessage, Status, Timing

MS = 1_000_000
SOAKED_S = 30.0


def script(name: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, object]:
    program = [ROOT / "scripts" / name] if name.endswith(".py") else ["-m", name]
    done = commands.run(
        [sys.executable, *program, *arguments, "--json"], timeout_s=120, folder=ROOT / "scripts"
    )
    assert done.returncode in codes, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


def message(seq: int, sent_ns: int, dropped: int = 0) -> LabelsMessage:
    return LabelsMessage(
        node="n", camera="c", session="s", seq=seq, status=Status.OK, published_ns=0,
        published_mono_ns=sent_ns, stamp_mono_ns=sent_ns - 10 * MS, dropped=dropped,
        timing_ns=Timing(1 * MS, 2 * MS, 3 * MS, 4 * MS, 0),
    )  # fmt: skip


def test_a_profile_counts_what_is_missing_and_adds_up() -> None:
    profiler = Profiler()
    assert profiler.result() is None
    profiler.add(replace(message(0, 0), retained=True), 5 * MS)
    for seq, at_ms, dropped in ((3, 100, 9), (4, 200, 2), (7, 300, 1), (8, 500, 0)):
        profiler.add(message(seq, at_ms * MS, dropped), (at_ms + 1) * MS)
    profile = profiler.result()
    assert profile is not None
    assert (profile.messages, profile.lost, profile.dropped) == (4, 2, 3)
    assert profile.total == Spread(11, 11, 11, 11)
    assert profile.stages["infer"].p50 == 4
    assert profile.stages["publish"].max == 1
    assert profile.interval == Spread(100, 200, 200, 200)
    assert profile.fps == pytest.approx(3 / 0.4)
    assert profile.jitter_ms == pytest.approx(47.14, abs=0.01)


def test_bench_profiles_the_real_node(perception_node: Run) -> None:
    done = perception_node("bench", "--profile", "--json", "--seconds", "2")
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)
    assert profile["messages"] > 10
    assert set(profile["stages"]) == {
        "capture", "wait", "preprocess", "infer", "postprocess", "publish",
    }  # fmt: skip
    assert 0 < profile["total"]["p50"] <= profile["total"]["p99"] <= profile["total"]["max"]
    assert profile["total"]["p50"] >= profile["stages"]["infer"]["p50"]


def test_bench_compares_and_says_what_is_wrong(in_process: Run) -> None:
    done = in_process("bench", "--json", "--rounds", "5")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 4
    for row in rows:
        assert row["theirs"]["ms"] > 0
        assert row["ours"]["cpu_ms"] > 0
        assert row["ratio"] > 0
    wrong = in_process("bench", "--profile", "--source", "/nowhere.mp4")
    assert wrong.returncode == 3
    assert "/nowhere.mp4" in wrong.stderr.splitlines()[-1]


def test_the_soak_is_flat() -> None:
    """What grows does so every time; what other work on this computer adds to the end of one run
    does not."""
    deadline = time.monotonic() + SOAKED_S
    soak = ("soak.py", "--frames", "110", "--seconds", "60")
    report = script(*soak, codes=(0, 1))
    while not report["flat"] and time.monotonic() < deadline:
        report = script(*soak, codes=(0, 1))
    assert report["flat"] is True, report
    assert report["frames"] == 110
    assert isinstance(report["dropped"], int)
    assert report["dropped"] > 0


def test_the_wire_is_measured_with_real_subscribers() -> None:
    report = script("bench/wire.py", "--seconds", "0.7", "--subscribers", "3")
    for row in report["publish_to_receive"]:  # type: ignore[attr-defined]
        assert 3 * row["rate_hz"] * 0.3 <= row["received"] <= 3 * row["sent"]
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert 0 < row["bare_zmq"]["p50_ms"] <= row["bare_zmq"]["max_ms"]
    stopped = report["stopped_subscriber"]
    assert stopped["grown_mib"] < 20  # type: ignore[index]


def test_the_node_is_compared_with_a_loop_of_ones_own() -> None:
    names = ["careful-onnxruntime", "node-onnxruntime"]
    report = script(
        "bench.peers", "--only", *names, "--rounds", "1", "--seconds", "1", "--outage", "1"
    )
    peers: list[dict[str, object]] = report["peers"]  # type: ignore[assignment]
    assert [peer["name"] for peer in peers] == names
    for peer in peers:
        assert 0 < peer["age_p50_ms"] <= peer["age_p99_ms"]  # type: ignore[operator]
        assert 0 < peer["pss_mib"] <= peer["rss_mib"]  # type: ignore[operator]
        for key in ("start_s", "cpu_ms", "labelled_per_s", "back_s"):
            assert peer[key] > 0, key  # type: ignore[operator]
    assert peers[1]["old_labels"] == 0
