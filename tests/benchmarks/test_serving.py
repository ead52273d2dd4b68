import io
import json
import runpy
import sys
import threading

import keras
import protocol
import pytest
import serving

import keras_mixer


def test_threads_call_at_the_same_time():
    meeting = threading.Barrier(3, timeout=10)  # breaks unless all three threads are inside a call
    seconds = protocol.timed(meeting.wait, {"seconds": 0, "fewest": 2, "in_flight": 3})
    assert len(seconds) == 6
    assert len(protocol.timed(lambda: None, {"seconds": 0})) == protocol.FEWEST_CALLS


def test_a_row_counts_the_images_of_all_requests():
    row = serving.row({"batch_size": 8}, 4, "a", [0.1] * 98 + [0.2] * 2)
    assert (row["p50_ms"], row["fastest_ms"]) == pytest.approx((100, 100))
    assert 100 < row["p99_ms"] <= 200
    assert row["images_per_second"] == pytest.approx(4 * 8 / 0.102)
    rows = serving.relative([row, row | {"contestant": serving.BASELINE, "images_per_second": 100.0}])
    assert rows[0]["of_baseline"] == pytest.approx(4 * 8 / 0.102 / 100)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
def test_a_saved_model_runs_in_a_session(tiny_mixer, tmp_path, monkeypatch, capsys):
    keras_mixer.export_saved_model(tiny_mixer(num_blocks=1), tmp_path / "float32")
    case = {"path": str(tmp_path / "float32"), "precision": "float32", "batch_size": 2, "image_size": 16}
    requests = [{"do": "prepare", "case": case}, {"do": "time", "seconds": 0, "fewest": 2, "in_flight": 2}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(json.dumps, requests))))
    runpy.run_path(serving.__file__.replace("serving.py", "serving_peer.py"))
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(protocol.MARK)]
    _, times = (json.loads(answer.removeprefix(protocol.MARK)) for answer in answers)
    assert len(times["seconds"]) == 4
