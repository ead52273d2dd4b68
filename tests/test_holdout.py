"""A figure on images held out of the training split is nowhere called test accuracy."""

import json

import pytest

from keras_mixer import cli
from keras_mixer.training.recipe import Recipe

TINY = ["--num-blocks", "1", "--hidden-dim", "16", "--tokens-mlp-dim", "8", "--channels-mlp-dim", "32"]
TINY += ["--epochs", "1", "--warmup-steps", "1", "--randaugment-num-ops", "0"]


def test_a_held_out_figure_is_named_so_everywhere(capsys, tmp_path):
    def main(*words):
        assert cli.main(list(map(str, words))) == 0
        return capsys.readouterr()

    run = tmp_path / "run"
    printed = main("train", "digits", *TINY, "--holdout", "0.2", "--workdir", run)
    assert "1,150 training and 287 held-out images of digits" in printed.out
    assert "held-out=0." in printed.err
    assert "test=" not in printed.err
    assert "287 held-out" in main("evaluate", run).out
    for file in ("results.json", "evaluation.json"):
        assert json.loads((run / file).read_text())["part"] == "held-out"
    main("report", run, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().lower()
    assert "held-out accuracy" in page
    assert "test images" not in page


@pytest.mark.parametrize(("test", "part"), [("train[80%:]", "held-out"), ("train", "held-out"), ("test[:9]", "test")])
def test_part_of_the_training_split_is_held_out_too_until_a_test_split_is_named(test, part):
    assert Recipe("own", data="own_set", train_split="train[:80%]", test_split=test).part() == part
