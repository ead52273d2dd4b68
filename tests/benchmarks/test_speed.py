"""The scripts that measure speed: what they count, and that they run."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import gpu
import keras
import numpy as np
import pytest
import run
import serving
import speed
from contestants import Calls
from keras_vit import VITS, build_vit
from speed import Case

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


def test_the_vit_is_the_published_one(monkeypatch):
    assert VITS["ViT-B/16"].macs(224) == 17_563_828_224
    monkeypatch.setitem(VITS, "ViT-B/16", dataclasses.replace(VITS["ViT-B/16"], blocks=1))
    assert build_vit("ViT-B/16", 224).count_params() == 86_567_656 - 11 * 7_087_872


@pytest.mark.backends
def test_every_case_can_be_called_again_and_again():
    forward = speed.prepare(Case("forward", "S/32", 2, "float32", image_size=32, num_blocks=1))
    assert np.asarray(forward()).shape == (2, 1000)
    train = speed.prepare(Case("train", "S/32", 2, "float32", image_size=32, num_blocks=1))
    losses = [float(np.asarray(train()).ravel()[0]) for _ in range(3)]
    assert losses[2] < losses[0]  # it really trains
    assert np.isfinite(speed.prepare_limit("float32", side=16)())


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
def test_gpu_runs_on_a_cpu(tmp_path):
    command = [sys.executable, gpu.__file__, "--tiny", "--only", "tiny/4", "--kinds", "train", "--seconds", "0.01"]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    subprocess.run([*command, "--output", tmp_path / "gpu.json"], check=True, env=environment)
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (row["contestant"], row["kind"], row["variant"]) == ("keras", "train", "tiny/4")
    assert min(row["images_per_second"], row["mfu"]) > 0
