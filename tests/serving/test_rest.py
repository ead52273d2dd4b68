"""Answers that no export of this package gives."""

import json

import pytest

from keras_mixer.serving.protocol import ServingError, statuses_in
from keras_mixer.serving.rest import answers_in, content_of

ROW = {"probabilities": [0.25, 0.75], "classes": [1, 0], "labels": ["b", "a"]}


def test_a_good_answer_is_read():
    (answer,) = answers_in({"predictions": [ROW]}, 1)
    assert (answer.probabilities.tolist(), answer.classes, answer.labels) == ([0.25, 0.75], (1, 0), ("b", "a"))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"predictions": None},
        {"predictions": [ROW, ROW]},
        {"predictions": [[0.25, 0.75]]},
        {"predictions": [{"probabilities": [1.0]}]},
        *({"predictions": [ROW | change]} for change in (
            {"probabilities": ["a", "b"]},
            {"probabilities": 1.0},
            {"probabilities": [[0.25, 0.75]]},
            {"probabilities": [[0.25], []]},
            {"classes": [2, 0]},
            {"classes": [-1, 0]},
            {"classes": [1.5, 0]},
            {"classes": [1]},
            {"labels": [1, 2]},
            {"labels": None},
        )),
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_answer_is_a_serving_error(content):
    with pytest.raises(ServingError, match="not that of a model exported by this package"):
        answers_in(content, 1)


@pytest.mark.parametrize("content", [{}, {"model_version_status": 1}, {"model_version_status": [{"version": "x"}]}])
def test_a_malformed_status_is_a_serving_error(content):
    with pytest.raises(ServingError, match="not that of a model"):
        statuses_in(content)


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_serving_error(data):
    with pytest.raises(ServingError, match="that is not JSON"):
        content_of(data, "it answered 200")
    assert content_of(json.dumps([1]).encode(), "it") == {"error": [1]}
