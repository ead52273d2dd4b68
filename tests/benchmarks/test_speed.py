import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import protocol
import pytest
import run
import speed
from contestants import Calls
from speed import Case


def test_operations_are_two_for_each_product_and_three_times_as_many_in_training():
    assert Case("forward", "B/16", 8).operations() == 2 * 8 * 12_601_767_936
    assert Case("train", "B/16", 8).operations() == 3 * Case("forward", "B/16", 8).operations()
    assert speed.limit_operations(64) == 2 * 64**3


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


def test_a_row_compares_with_the_product_of_matrices():
    case = Case("train", "S/32", 16)
    times = {"limit": Calls([2.0] * 3), "keras_mixer": Calls([1.0, 2.0, 4.0])}
    (row,) = run.summary(case, times)
    assert row["images_per_second"] == 8
    assert row["of_limit"] == pytest.approx(case.operations() / speed.limit_operations())


@pytest.mark.experiments
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts in a graph of TensorFlow")
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


def test_contestants_answer_one_request_a_line_whatever_else_they_print():
    forward, train = {"kind": "forward"}, {"kind": "train"}
    requests = [{"do": "hello"}, {"do": "memory", "case": forward}, {"do": "prepare", "case": forward}]
    requests += [{"do": "time", "seconds": 0.01}, {"do": "prepare", "case": train}]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = [sys.executable, "-c", CONTESTANT.format(benchmarks=str(Path(protocol.__file__).parent))]
    out = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    lines = [line for line in out.splitlines() if line.startswith(protocol.MARK)]
    answers = [json.loads(line.removeprefix(protocol.MARK)) for line in lines]
    assert answers[0]["versions"]["numpy"] == np.__version__
    if sys.platform == "linux":
        assert 29_000_000 < answers[1]["bytes"] < 70_000_000
    assert len(answers[3]["seconds"]) >= 3
    assert 0 < answers[3]["cpu_seconds"] < sum(answers[3]["seconds"])
    assert answers[4] == {"error": "ValueError: no training here"}
    assert len(protocol.time_calls(lambda: None, 0.0)) == 3
