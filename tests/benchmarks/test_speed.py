"""The scripts that measure speed: what they count, and that they run."""

import dataclasses
import io
import json
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import gpu
import keras
import numpy as np
import protocol
import pytest
import run
import serving
import speed
from contestants import Calls
from keras_vit import VITS, build_vit
from speed import Case

import keras_mixer

BENCHMARKS = Path(speed.__file__).parent
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's files or graphs")


def test_rows_count_operations_and_images():
    forward, train = Case("forward", "B/16", 8), Case("train", "B/16", 8)
    assert forward.operations() == 2 * 8 * 12_601_767_936
    assert train.operations() == 3 * forward.operations()
    assert speed.limit_operations(64) == 2 * 64**3
    times = {"limit": Calls([2.0] * 3), "keras_mixer": Calls([1.0, 2.0, 4.0])}
    (row,) = run.summary(train, times)
    assert row["images_per_second"] == 4
    assert row["of_limit"] == pytest.approx(train.operations() / speed.limit_operations())
    row = serving.row({"batch_size": 8}, 4, "a", [0.1] * 98 + [0.2] * 2)
    assert (row["p50_ms"], row["fastest_ms"]) == pytest.approx((100, 100))
    assert 100 < row["p99_ms"] <= 200
    assert row["images_per_second"] == pytest.approx(4 * 8 / 0.102)
    rows = serving.relative([row, row | {"contestant": serving.BASELINE, "images_per_second": 100.0}])
    assert rows[0]["of_baseline"] == pytest.approx(4 * 8 / 0.102 / 100)


def test_the_vit_is_the_published_one_and_ratios_are_as_the_papers(monkeypatch):
    speeds = {("keras", "B/16"): 32.0, ("keras", "ViT-B/16"): 16.0, ("timm", "B/16"): 20.0}
    rows = [
        {"contestant": contestant, "variant": model, "kind": "forward", "images_per_second": speed}
        for (contestant, model), speed in speeds.items()
    ]
    assert gpu.ratios(rows) == [
        ("B/16 forward: keras / timm compiled", 1.6, 1.0),
        ("keras: B/16 / ViT-B/16 forward", 2.0, pytest.approx(1.607, abs=1e-3)),
    ]
    assert VITS["ViT-B/16"].macs(224) == 17_563_828_224
    monkeypatch.setitem(VITS, "ViT-B/16", dataclasses.replace(VITS["ViT-B/16"], blocks=1))
    assert build_vit("ViT-B/16", 224).count_params() == 86_567_656 - 11 * 7_087_872


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.experiments)])
def test_every_case_can_be_called_again_and_again(precision):
    forward = speed.prepare(Case("forward", "S/32", 2, precision, image_size=32, num_blocks=1))
    assert np.asarray(forward()).shape == (2, 1000)
    train = speed.prepare(Case("train", "S/32", 2, precision, image_size=32, num_blocks=1))
    losses = [float(np.asarray(train()).ravel()[0]) for _ in range(3)]
    assert losses[2] < losses[0]  # it really trains
    assert np.isfinite(speed.prepare_limit(precision, side=16)())
    assert keras.config.dtype_policy().name == "float32"


CONTESTANT = """
import sys, time
sys.path.insert(0, {benchmarks!r})
from protocol import serve
print("noise of a framework")
def prepare(case):
    if case["kind"] == "train":
        raise ValueError("no training here")
    held = []
    return lambda: (time.sleep(0.001), held.append(b"x" * 30_000_000), held.pop())
serve(prepare)
"""


def requests_of(requests):
    return "".join(json.dumps(request) + "\n" for request in requests)


def answers_in(out):
    lines = [line for line in out.splitlines() if line.startswith(protocol.MARK)]
    return [json.loads(line.removeprefix(protocol.MARK)) for line in lines]


def test_contestants_answer_one_request_a_line_whatever_else_they_print():
    forward, train = {"kind": "forward"}, {"kind": "train"}
    requests = [{"do": "hello"}, {"do": "memory", "case": forward}, {"do": "prepare", "case": forward}]
    requests += [{"do": "time", "seconds": 0.01}, {"do": "prepare", "case": train}]
    command, given = [sys.executable, "-c", CONTESTANT.format(benchmarks=str(BENCHMARKS))], requests_of(requests)
    out = subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout
    hello, memory, _, times, failed = answers_in(out)
    assert hello["versions"]["numpy"] == np.__version__
    if sys.platform == "linux":
        assert 29_000_000 < memory["bytes"] < 70_000_000
    assert len(times["seconds"]) >= 3
    assert 0 < times["cpu_seconds"] < sum(times["seconds"])
    assert failed == {"error": "ValueError: no training here"}


def test_threads_call_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)  # breaks unless all three threads are inside a call
    assert len(protocol.timed(meeting.wait, {"seconds": 0, "fewest": 2, "in_flight": 3})) == 6
    assert len(protocol.timed(lambda: None, {"seconds": 0})) == protocol.FEWEST_CALLS


@on_tensorflow
def test_a_saved_model_runs_in_a_session(tiny_mixer, tmp_path, monkeypatch, capsys):
    keras_mixer.export_saved_model(tiny_mixer(num_blocks=1), tmp_path / "float32")
    case = {"path": str(tmp_path / "float32"), "precision": "float32", "batch_size": 2, "image_size": 16}
    requests = [{"do": "prepare", "case": case}, {"do": "time", "seconds": 0, "fewest": 2, "in_flight": 2}]
    monkeypatch.setattr(sys, "stdin", io.StringIO(requests_of(requests)))
    runpy.run_path(str(BENCHMARKS / "serving_peer.py"))
    _, times = answers_in(capsys.readouterr().out)
    assert len(times["seconds"]) == 4


@on_tensorflow
@pytest.mark.experiments
def test_throughput_counts_in_the_graph_and_draws(tiny_mixer, tmp_path, capsys):
    import throughput

    model = tiny_mixer(num_blocks=1)
    model.save(tmp_path / "model.keras")
    throughput.main((str(tmp_path), "S/32"), tmp_path / "t.png", (1, 3), image_size=64, seconds=0.01)
    printed = capsys.readouterr().out
    assert f"| {tmp_path} | {model.count_params():,} | 0.000 | - | 3 |" in printed
    assert " | True | 1 |" in printed  # the formula is right
    assert (tmp_path / "t.png").stat().st_size > 1000
    assert throughput.traced_macs(model) == 16 * 48 * 32 + 2 * 16 * 32 * (16 + 64) + 32 * 10


@pytest.mark.experiments
def test_gpu_runs_on_a_cpu_and_names_what_is_missing(tmp_path):
    missing, output = tmp_path / "python", tmp_path / "gpu.json"
    missing.write_text("#!/bin/sh\nexit 1\n")
    missing.chmod(0o755)
    command = [sys.executable, gpu.__file__, "--tiny", "--only", "tiny/4", "--kinds", "train"]
    command += ["--seconds", "0.01", "--timm", str(missing), "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "timm tiny/4\n  left out: the process ended" in out
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["contestant"], row["kind"], row["variant"]) == ("keras", "train", "tiny/4")
    assert row["images_per_second"] > 0
    assert row["mfu"] > 0
