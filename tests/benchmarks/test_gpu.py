import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest
from keras_vit import VITS, build_vit


class Device:
    """A contestant with room for batches of up to `largest`, faster with each doubling up to `fastest`."""

    def __init__(self, largest, fastest):
        self.largest, self.fastest = largest, fastest

    def ask(self, do, case=None, seconds=None):
        if do == "prepare":
            self.batch_size = case["batch_size"]
            return (
                {"error": "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"}
                if self.batch_size > self.largest
                else {}
            )
        return {"seconds": [self.batch_size / min(self.batch_size, self.fastest)] * 3, "bytes": 7, "device": "test"}


OPTIONS = argparse.Namespace(image_size=224, batch_size=16, seconds=0, one_batch=False)


@pytest.mark.parametrize(
    ("largest", "fastest", "best", "end"), [(64, 4096, 64, "out of memory"), (4096, 128, 128, None)]
)
def test_a_sweep_ends_where_memory_does_or_growth(largest, fastest, best, end):
    row = gpu.sweep(Device(largest, fastest), "B/16", "train", OPTIONS, time.perf_counter() + 60)
    assert (row["batch_size"], row["images_per_second"]) == (best, best)
    assert row["tried"][-1]["batch_size"] == 2 * best
    assert row["tried"][-1].get("stopped") == end
    assert row["tflops"] == pytest.approx(best * 6 * 12_601_767_936 / 1e12)


def test_a_sweep_without_memory_or_time_gives_nothing(capsys):
    assert gpu.sweep(Device(1, 1), "B/16", "forward", OPTIONS, time.perf_counter() + 60) is None
    assert "out of memory" in capsys.readouterr().out
    assert gpu.sweep(Device(99, 1), "B/16", "forward", OPTIONS, time.perf_counter() - 1) is None


def test_ratios_are_against_timm_and_as_the_papers():
    speeds = {("keras", "B/16"): 32.0, ("keras", "ViT-B/16"): 16.0, ("timm", "B/16"): 20.0}
    rows = [
        {"contestant": contestant, "variant": model, "kind": "forward", "images_per_second": speed}
        for (contestant, model), speed in speeds.items()
    ]
    assert gpu.ratios(rows) == [
        ("B/16 forward: keras / timm compiled", 1.6, 1.0),
        ("keras: B/16 / ViT-B/16 forward", 2.0, pytest.approx(1.607, abs=1e-3)),
    ]


def test_the_vit_is_the_published_one(monkeypatch):
    assert VITS["ViT-B/16"].macs(224) == 17_563_828_224
    monkeypatch.setitem(VITS, "ViT-B/16", dataclasses.replace(VITS["ViT-B/16"], blocks=1))
    assert build_vit("ViT-B/16", 224).count_params() == 86_567_656 - 11 * 7_087_872


@pytest.mark.experiments
def test_it_runs_on_a_cpu_and_names_what_is_missing(tmp_path):
    missing = tmp_path / "python"
    missing.write_text("#!/bin/sh\nexit 1\n")
    missing.chmod(0o755)
    output = tmp_path / "gpu.json"
    command = [sys.executable, gpu.__file__, "--tiny", "--only", "tiny/4", "--kinds", "train"]
    command += ["--seconds", "0.01", "--timm", str(missing), "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(Path(gpu.__file__).parents[1])}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "timm tiny/4\n  left out: the process ended" in out
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["contestant"], row["kind"], row["variant"]) == ("keras", "train", "tiny/4")
    assert row["images_per_second"] > 0
    assert row["mfu"] > 0
