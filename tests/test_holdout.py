"""A figure on images held out of the training split is nowhere called test accuracy."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfds_files import write_own_tfds

from keras_mixer import cli

TINY = ["--num-blocks", "1", "--hidden-dim", "16", "--tokens-mlp-dim", "8", "--channels-mlp-dim", "32"]
TINY += ["--epochs", "1", "--warmup-steps", "1", "--randaugment-num-ops", "0"]


@pytest.fixture
def main(capsys):
    return lambda *words: (cli.main(list(map(str, words))), capsys.readouterr())[1]


def test_a_held_out_figure_is_named_so_everywhere(main, tmp_path):
    run = tmp_path / "run"
    printed = main("train", "digits", *TINY, "--holdout", "0.2", "--workdir", run)
    assert "1,150 training and 287 held-out images of digits" in printed.out
    assert "held-out accuracy" in printed.out
    assert "held-out=0." in printed.err
    assert "test=" not in printed.err
    assert "287 held-out" in main("evaluate", run).out
    for file in ("results.json", "evaluation.json"):
        assert json.loads((run / file).read_text())["part"] == "held-out"
    main("report", run, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text().lower()
    assert "held-out accuracy" in page
    assert "test images" not in page
    main("card", run, "--output", tmp_path / "card.md")
    assert "287 training images that were held out of scikit-learn digits" in (tmp_path / "card.md").read_text()


def test_part_of_the_training_split_is_held_out_too_until_a_test_split_is_named(main, tmp_path):
    image, label = tfds.features.Image(shape=(8, 8, 3)), tfds.features.ClassLabel(num_classes=2)
    examples = [{"image": np.full((8, 8, 3), 100 * (i % 2), np.uint8), "label": i % 2} for i in range(20)]
    write_own_tfds(tmp_path, "own_set", {"image": image, "label": label}, {"train": examples, "test": examples[:9]})
    data = ["--data", "own_set", "--data-dir", tmp_path, "--train-split", "train[:80%]", "--test-split", "train[80%:]"]
    printed = main("train", "smoke", *TINY, *data, "--global-batch-size", "4", "--workdir", tmp_path / "run")
    assert "16 training and 4 held-out images" in printed.out
    assert "4 held-out" in main("evaluate", tmp_path / "run").out
    assert "9 test" in main("evaluate", tmp_path / "run", "--test-split", "test").out
    assert "20 test" in main("evaluate", tmp_path / "run", "--test-split", "train").out  # not those held out
