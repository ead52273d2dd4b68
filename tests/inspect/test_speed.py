import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_mixer import cli
from keras_mixer.inspect import speed
from keras_mixer.inspect.speed import Case, limit_operations, prepare, prepare_limit, throughput, time_calls

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_operations_are_two_for_each_product_and_three_times_as_many_in_training():
    assert Case("forward", "B/16", 8).operations() == 2 * 8 * 12_601_767_936
    assert Case("train", "B/16", 8).operations() == 3 * Case("forward", "B/16", 8).operations()
    assert limit_operations(64) == 2 * 64**3


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_case_can_be_called_again_and_again(precision):
    forward = prepare(Case("forward", "S/32", 2, precision, image_size=32))
    assert np.asarray(forward()).shape == (2, 1000)
    train = prepare(Case("train", "S/32", 2, precision, image_size=32))
    losses = [float(np.asarray(train()).ravel()[0]) for _ in range(3)]
    assert losses[2] < losses[0]  # it really trains
    assert np.isfinite(prepare_limit(precision, side=16)())


def test_calls_are_timed_at_least_three_times_and_for_about_the_given_seconds():
    assert len(time_calls(lambda: None, 0.0)) == 3
    assert sum(time_calls(lambda: None, 0.05)) <= 0.06


def test_throughput_measures_every_batch_size(tiny_mixer):
    found = throughput(tiny_mixer(num_blocks=1), (1, 3), seconds=0.05)
    assert [item.batch_size for item in found] == [1, 3]
    assert all(item.images_per_second > 0 for item in found)


def test_the_command_prints_a_table_and_writes_what_it_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "CALLS", [("forward", 1), ("train", 2)])
    output = tmp_path / "speed.json"
    options = ["--variants", "S/32", "--precisions", "float32", "--image-size", "32", "--seconds", "0.01"]
    assert cli.main(["benchmark", *options, "--output", str(output)]) == 0
    assert "of the product" in capsys.readouterr().out
    results = json.loads(output.read_text())["results"]
    assert [(row["kind"], row["batch_size"]) for row in results] == [("forward", 1), ("train", 2)]
    assert all(row["images_per_second"] > 0 and 0 < row["of_limit"] < 2 for row in results)
    assert cli.main(["benchmark", *options, "--output", str(output)]) == 2
    assert "not overwritten" in capsys.readouterr().err


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
    requests = [
        {"do": "hello"},
        {"do": "first", "case": {"kind": "forward"}},
        {"do": "memory", "case": {"kind": "forward"}},
        {"do": "prepare", "case": {"kind": "forward"}},
        {"do": "time", "seconds": 0.01},
        {"do": "prepare", "case": {"kind": "train"}},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = [sys.executable, "-c", CONTESTANT.format(benchmarks=str(BENCHMARKS))]
    out = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    mark = "benchmark answer: "
    answers = [json.loads(line.removeprefix(mark)) for line in out.splitlines() if line.startswith(mark)]
    assert answers[0]["versions"]["numpy"] == np.__version__
    assert answers[1]["prepare"] >= 0
    assert answers[1]["first"] > 0.001
    if sys.platform == "linux":
        assert 29_000_000 < answers[2]["bytes"] < 70_000_000
    assert len(answers[4]["seconds"]) >= 3
    assert 0 < answers[4]["cpu_seconds"] < sum(answers[4]["seconds"])
    assert answers[5] == {"error": "ValueError: no training here"}
