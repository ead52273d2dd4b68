"""The command line as a person types it. One command is a process of its own; the others run in this one, which saves
the seconds of their imports."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits
from test_repository import COMMAND, MODULES, ROOT, texts

import keras_mixer_command
from keras_mixer import cli
from keras_mixer.cli import look, train
from keras_mixer.training.sweep import SweepResult

QUICK = ["--num-blocks", "1", "--hidden-dim", "32", "--tokens-mlp-dim", "16", "--channels-mlp-dim", "64"]
QUICK += ["--epochs", "8", "--global-batch-size", "128", "--learning-rate", "1e-2", "--warmup-steps", "5"]
QUICK += ["--checkpoint-every-steps", "20", "--xla-on-cpu", "False", "--devices", "cpu", "--randaugment-num-ops", "0"]


@pytest.fixture
def printed(capsys):

    def printed(*arguments):
        assert cli.main(list(map(str, arguments))) == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail with status 2 and returns its one line, or what tyro says in a box."""

    def refused(*arguments):
        try:
            assert cli.main(list(map(str, arguments))) == 2
        except SystemExit as stop:
            if stop.code != 2:
                raise
            return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
        return re.fullmatch(r"error: (.+)\n", capsys.readouterr().err)[1]

    return refused


@pytest.fixture(scope="module")
def help_of():
    texts = {}
    for command in cli.COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit, match=r"^0$"):
            cli.main([command, "--help"])
        texts[command] = out.getvalue()
    return texts


def options_in(text):
    return set(re.findall(r"(?:^|[ │])\s*(--[a-z][\w-]*)(?=,? |$)", text, re.M))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The folder of a run, two folders above it what its training printed."""
    folder = tmp_path_factory.mktemp("work")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        assert cli.main(["train", "digits", *QUICK]) == 0
    (folder / "printed.txt").write_text(out.getvalue())
    return folder / "runs" / "digits"


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for label in range(10):
        pixels = np.round(images[labels == label][3].reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{label}.png")
    return sorted(folder.iterdir())


@pytest.mark.backends
def test_train_reports_its_result_and_the_next_commands(finished_run, tmp_path, printed):
    out = (finished_run.parents[1] / "printed.txt").read_text()
    assert "1,437 training and 360 test images of digits, 10 classes" in out
    assert "test accuracy" in out
    assert "keras-mixer evaluate runs/digits" in out
    assert "Report:\n  keras-mixer report runs/digits --output runs/digits/report.html --open\n" in out
    assert "training: 100%" in out
    copy = shutil.copytree(finished_run, tmp_path / "run")
    results = json.loads((copy / "results.json").read_text())
    (copy / "results.json").write_text(json.dumps(results | {"loss": None}))  # which was not finite
    assert re.search(r"% +- +360 ", printed("train", "digits", *QUICK, "--workdir", copy))


@pytest.mark.backends
def test_ctrl_c_ends_with_advice_and_other_settings_are_refused(tmp_path, monkeypatch, refused, capsys):
    arguments = ["train", "digits", *QUICK, "--epochs", "400"]
    process = subprocess.Popen(
        [sys.executable, keras_mixer_command.__file__, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != keras_mixer_command.LOG_LEVEL},  # JAX sets it
    )
    checkpoints, deadline = tmp_path / "runs" / "digits" / "checkpoints", time.monotonic() + 120
    while not list(checkpoints.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopped at step" in err
    assert "Rerun the same command to resume" in err
    assert not re.search("oneDNN|absl|XLA|cpu_feature_guard", err)
    monkeypatch.chdir(tmp_path)
    assert "belongs to another configuration (seed: 0 there, 3 now)" in refused(*arguments, "--seed", "3")
    monkeypatch.setattr(look.Variants, "__call__", mock.Mock(side_effect=KeyboardInterrupt))
    assert cli.main(["variants"]) == 130
    assert "Rerun" not in capsys.readouterr().err  # it would not resume


@pytest.mark.backends
def test_evaluate_gives_the_accuracy_of_the_run_and_that_of_its_model_on_named_data(
    finished_run, tmp_path, printed, refused
):
    out = printed("evaluate", finished_run)
    trained = json.loads((finished_run / "results.json").read_text())
    evaluated = json.loads((finished_run / "evaluation.json").read_text())
    assert (evaluated["accuracy"], evaluated["loss"]) == (trained["accuracy"], trained["loss"])
    confusion = np.array(evaluated["confusion"])
    assert confusion.sum() == 360
    np.testing.assert_allclose(evaluated["per_class"], np.diag(confusion) / confusion.sum(1))  # as in class_names
    assert f"{trained['accuracy']:.2%}" in out
    np.fill_diagonal(confusion, 0)
    label, prediction = np.unravel_index(confusion.argmax(), confusion.shape)
    assert re.search(rf"Most frequent errors:\n.+\n.+\n{label} +{prediction} +{confusion.max()} ", out)
    assert (finished_run / "confusion.png").is_file()
    model, table = finished_run / "model.keras", tmp_path / "classes.csv"
    content = json.loads(printed("evaluate", model, "--data", "digits", "--json", "--csv", table))
    assert (content["accuracy"], content["test_images"]) == (trained["accuracy"], 360)
    assert content["loss"] == pytest.approx(trained["loss"], rel=1e-4)
    rows = [(row["class"], float(row["accuracy"])) for row in csv.DictReader(table.read_text().splitlines())]
    assert rows == list(zip("0123456789", content["per_class"], strict=True))
    assert "is not a run, which would know its test data. Pass them with --data" in refused("evaluate", model)


def test_predict_gives_a_table_json_and_csv(finished_run, digit_files, tmp_path, printed):
    images, table = digit_files[0].parent, tmp_path / "answers.csv"
    out = printed("predict", finished_run, *digit_files, "--top-k", "2")
    assert out.count(".png") == 20
    assert "Trained on scikit-learn digits: an image of anything else gets one of its classes too." in out
    answers = json.loads(printed("predict", finished_run, images, "--json"))
    assert [answer["image"] for answer in answers] == list(map(str, digit_files))
    assert sum(answer["labels"][0] == Path(answer["image"]).stem for answer in answers) >= 8
    assert all(len(answer["probabilities"]) == 5 for answer in answers)
    answers = json.loads(printed("predict", finished_run, images, "--threshold", "0.3", "--json", "--csv", table))
    assert all(min(answer["probabilities"], default=1) >= 0.3 for answer in answers)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["class"] for row in rows] == [label for answer in answers for label in answer["labels"]]
    assert printed("predict", finished_run, images, "--threshold", "1").count("(none)") == 10


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
def test_an_export_predicts_and_is_evaluated_as_its_run(finished_run, digit_files, tmp_path, printed):
    target = tmp_path / "model.tflite"
    assert "Written:" in printed("export", finished_run, "--format", "tflite", "--output", target)
    paths = finished_run, target
    ours, theirs = (json.loads(printed("predict", path, *digit_files, "--json")) for path in paths)
    for one, other in zip(ours, theirs, strict=True):
        assert one["labels"] == other["labels"]
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)
    accuracy = json.loads((finished_run / "results.json").read_text())["accuracy"]
    assert f"{accuracy:.2%}" in printed("evaluate", target, "--data", "digits")


def test_every_other_command_uses_a_run(finished_run, digit_files, tmp_path, printed, monkeypatch):
    printed("convert", finished_run / "model.keras", tmp_path / "model.npz")
    assert np.load(tmp_path / "model.npz")["MixerBlock_0/token_mixing/Dense_0/kernel"].shape == (16, 16)
    options = "--layer", "block_0", "--output", tmp_path / "features.npz", "--json"
    about = json.loads(printed("features", finished_run, "digits", *options))
    assert (about["images"], about["layer"]) == (360, "block_0")
    assert np.load(tmp_path / "features.npz")["features"].shape == (360, 4, 4, 32)
    options = "--output", tmp_path / "three.png", "--class-name", "3"
    assert "(class 3)" in printed("saliency", finished_run, digit_files[3], *options)
    assert Image.open(tmp_path / "three.png").convert("L").size == (1008, 460)
    options = "--shots", "1", "5", "--seeds", "0", "1", "--output", tmp_path / "fewshot.json"
    out = printed("fewshot", finished_run, "digits", *options)
    assert "360 test images of digits, 10 classes, 32 features of pre_logits" in out
    assert json.loads((tmp_path / "fewshot.json").read_text())["support"] == {"1": 10, "5": 50}
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    printed("report", finished_run, "--output", tmp_path / "report.html", "--open", "--images", "50")
    assert "Confusion matrix" in (tmp_path / "report.html").read_text()
    assert opened == [(tmp_path / "report.html").as_uri()]
    printed("card", finished_run, "--output", tmp_path / "card.md")
    assert "mixup_alpha" in (tmp_path / "card.md").read_text()
    assert re.search("59,880,472 +12.602", printed("variants"))


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path, printed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--devices", "cpu", "--data", "nowhere", "--class-weights", "1", "2.5", "--dry-run")
    out = printed("train", "imagenet1k_l16", *options, "--accumulation-steps", "4")
    rows = (r"randaugment_level +15\.0", r"class_weights +\(1\.0, 2\.5\)", "images per device +4,096")
    rows += ("parameters +207,171,168", "macs +44,546,654,208", "total steps +unknown", r".*bytes +3,314,738,688")
    assert all(re.search(rf"^{row}$", out, re.M) for row in rows), out
    assert not list(tmp_path.iterdir())


def test_a_sweep_passes_its_options_on_and_prints_every_rate_and_the_best(printed, monkeypatch):
    no_training = mock.Mock(return_value=SweepResult({1e-6: None, 0.01: 0.5}, 0.01, None))
    monkeypatch.setattr(train, "sweep", no_training)
    options = ("--seed", "3", "--learning-rates", "1e-6", "1e-2", "--holdout", "0.25", "--skip-final")
    assert re.search(r"1e-06 +diverged\n0\.01 +50\.00%\n\nBest: 0\.01", printed("sweep", "digits", *options))
    (recipe, rates), passed = no_training.call_args
    assert (recipe.seed, rates) == (3, (1e-6, 0.01))
    expected = {"workdir": Path("runs/digits_sweep"), "holdout": 0.25, "final": False, "skip_corrupt": False}
    assert passed.items() >= expected.items()


def test_startup_messages_are_dropped_and_a_crash_is_reported():
    code = """
import os, sys, keras_mixer_command
with keras_mixer_command.without_startup_messages():
    print("a warning of Python", file=sys.stderr)
    os.write(2, b"I0000 00:00:1795707210.8   13724 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
    os.write(2, b"E0000 00:00:1795707210.8   13724 cuda.cc:1] no device\\n")
with keras_mixer_command.without_startup_messages():
    os.abort()
"""
    crashed = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert crashed.returncode == -signal.SIGABRT
    shown, crash = crashed.stderr.split("Fatal Python error: Aborted")
    assert shown == "a warning of Python\nE0000 00:00:1795707210.8   13724 cuda.cc:1] no device\n"
    assert "<string>" in crash


def test_help_version_and_a_wrong_command_need_no_package():
    code = """
import sys, keras_mixer_command
for words in (["--help"], ["--version"], ["dance"], []):
    assert keras_mixer_command.answer(words) is not None
print(*sys.modules, file=sys.stderr)
"""
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"keras_mixer", "tensorflow", "keras", "numpy", "tyro"} & set(answered.stderr.split())
    assert all(f"\n{group}:\n" in answered.stdout for group in keras_mixer_command.GROUPS)
    assert all(f"  {name} " in answered.stdout for name in cli.COMMANDS)
    assert re.search(r"^keras-mixer \d+\.\d+", answered.stdout, re.M)
    assert "Unknown command 'dance'; valid ones are train, sweep, " in answered.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train imagenet99", "Unknown recipe 'imagenet99'; valid ones are digits"),
        ("train --data . --workdir run", "two or more class folders"),
        ("train --variant B/17", r"variant must be one of S/32, S/16, .*, got 'B/17'\."),
        ("train --epochs many", r"Error parsing --epochs: invalid literal for int.* 'many'"),
        ("train --leaning-rate 1", r"Unrecognized options: --leaning-rate, 1 .*--learning-rate FLOAT"),
        ("sweep --learning-rates 0.1 0", r"learning_rates must be greater than 0, got 0\.0\."),
        ("predict nothing a.png", "There is no model at nothing"),
        ("predict run a.png --threshold 2", r"threshold must be less than or equal to 1, got 2\.0\."),
        ("export run --format onyx", r"invalid choice 'onyx' for argument '--format'.*'saved_model'"),
        ("evaluate", r"Missing .* MODEL "),
        ("evaluate .", r"does not contain a model: no model.keras \(of a finished run\), saved_model.pb"),
        ("train --no-flip --cache --no-skip-corrupt --dry-run --steps 0", r"steps must be .* to 1, got 0\."),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(words, message, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(*words.split()))


def test_errors_of_tensorflow_and_its_data_sets_end_with_one_line(monkeypatch, refused):
    for error, line in [
        (tf.errors.NotFoundError(None, None, "gs://b: no such bucket\n\t [[node Read]]"), "gs://b: no such bucket"),
        (RuntimeError("OutOfRangeError: half a record\nFailed to construct dataset"), "OutOfRangeError: half a record"),
    ]:
        monkeypatch.setattr(look.Variants, "__call__", mock.Mock(side_effect=error))
        assert refused("variants") == line


def test_help_explains_every_command_and_option_with_its_default(help_of):
    assert all(f"keras-mixer {name}" in text for name, text in help_of.items())
    text = " ".join(help_of["train"].split())
    assert re.search(r"--learning-rate .*default: 0\.002", text)
    assert "Side of the model's input in pixels" in text
    assert options_in(help_of["train"]) < options_in(help_of["sweep"])


def test_texts_name_only_options_that_a_command_has(help_of):
    known = set().union(*map(options_in, help_of.values()))
    known |= {"--logdir", "--directory", "--data_dir", "--version"}  # TensorBoard, http.server, TFDS, keras-mixer
    for path in (*MODULES, COMMAND):
        for text in texts(path):
            assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known, f"{path}: {text}"
