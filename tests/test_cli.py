"""The command line as a person types it: a process for each command, or in this one where only the result counts."""

import ast
import contextlib
import csv
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

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import write_folder
from PIL import Image
from sklearn.datasets import load_digits

import keras_mixer_command
from keras_mixer import cli
from keras_mixer.cli import look

SMALL = ["--num-blocks", "1", "--hidden-dim", "32", "--tokens-mlp-dim", "16", "--channels-mlp-dim", "64"]
SHORT = ["--epochs", "8", "--global-batch-size", "128", "--warmup-steps", "5", "--learning-rate", "1e-2"]
QUICK = [*SMALL, *SHORT, "--xla-on-cpu", "False", "--checkpoint-every-steps", "20"]


def command(*arguments, **options):
    environment = {name: value for name, value in os.environ.items() if name != keras_mixer_command.LOG_LEVEL}  # JAX's
    return subprocess.Popen(
        [sys.executable, keras_mixer_command.__file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def run(*arguments, status=0, cwd=None):
    process = command(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, out + err
    return out, err


@pytest.fixture
def printed(capsys):
    """Runs a command in this process, which saves the seconds of its imports, and returns what it prints."""

    def printed(*arguments):
        assert cli.main(list(map(str, arguments))) == 0
        return capsys.readouterr().out

    return printed


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    out, err = run("train", "digits", *QUICK, cwd=folder)
    return folder / "runs" / "digits", out, err


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    for label in range(10):
        pixels = np.round(images[labels == label][3].reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{label}.png")
    return sorted(folder.iterdir())


@pytest.mark.backends
def test_train_reports_its_result_and_the_next_commands(finished_run):
    folder, out, err = finished_run
    assert "1,437 training and 360 test images of digits, 10 classes" in out
    assert "test accuracy" in out
    assert "keras-mixer evaluate runs/digits" in out
    assert out.endswith("Report:\n  keras-mixer report runs/digits --output runs/digits/report.html --open\n")
    assert "compiling:   0%" in err
    assert "training: 100%" in err
    assert not re.search("oneDNN|absl|XLA|cpu_feature_guard", err)
    assert (folder / "results.json").is_file()


@pytest.mark.backends
def test_evaluate_gives_the_accuracy_of_the_training_run(finished_run):
    folder, *_ = finished_run
    out, _ = run("evaluate", folder)
    trained = json.loads((folder / "results.json").read_text())
    evaluated = json.loads((folder / "evaluation.json").read_text())
    assert evaluated["accuracy"] == trained["accuracy"]
    assert evaluated["loss"] == trained["loss"]
    assert np.sum(evaluated["confusion"]) == 360
    right = np.diag(evaluated["confusion"]) / np.sum(evaluated["confusion"], axis=1)
    np.testing.assert_allclose(evaluated["per_class"], right)  # in the order of class_names, which may repeat
    assert f"{trained['accuracy']:.2%}" in out


def test_predict_as_table_and_as_json(finished_run, digit_files, printed):
    folder, *_ = finished_run
    out, _ = run("predict", folder, *digit_files, "--top-k", "2")
    assert out.count(".png") == 10
    assert "Trained on scikit-learn digits: an image of anything else gets one of its classes too." in out
    predictions = json.loads(printed("predict", folder, *digit_files, "--json"))
    right = [prediction["labels"][0] == os.path.basename(prediction["image"])[0] for prediction in predictions]
    assert sum(right) >= 8
    assert all(len(prediction["probabilities"]) == 5 for prediction in predictions)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
@pytest.mark.parametrize("format", ["saved_model", "tflite"])
def test_exports_predict_what_the_run_predicts(finished_run, digit_files, tmp_path, format, printed):
    folder, *_ = finished_run
    target = tmp_path / ("served" if format == "saved_model" else "model.tflite")
    assert "Written:" in printed("export", folder, "--format", format, "--output", target)
    ours, theirs = (json.loads(printed("predict", path, *digit_files, "--json")) for path in (folder, target))
    for one, other in zip(ours, theirs, strict=True):
        assert one["labels"] == other["labels"]
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    arguments = ("train", "digits", *QUICK, "--epochs", "400")
    process = command(*arguments, cwd=tmp_path)
    checkpoints = tmp_path / "runs" / "digits" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopped at step" in err
    assert "Rerun the same command to resume" in err
    _, err = run("train", "digits", *QUICK, "--epochs", "400", "--seed", "3", status=2, cwd=tmp_path)
    assert "belongs to another configuration (seed: 0 there, 3 now)" in err
    again = command(*arguments, cwd=tmp_path)
    assert any("Resuming after step" in line for line in again.stdout)
    again.kill()
    again.communicate()


def test_an_image_folder_trains_and_keeps_its_class_names(tmp_path, printed):
    images = write_folder(tmp_path / "images", images_per_class=20, parts=())
    options = ("--data", images, *QUICK, "--global-batch-size", "16", "--workdir", tmp_path / "run")
    run("train", "digits", *options)
    sample = next((images / "stripe").iterdir())
    (prediction,) = json.loads(printed("predict", tmp_path / "run", sample, "--json"))
    assert prediction["labels"][0] == "stripe"
    assert set(prediction["labels"]) == {"circle", "stripe"}


def test_any_model_is_evaluated_on_data_that_are_named(finished_run, tmp_path, printed, capsys):
    folder, *_ = finished_run
    trained = json.loads((folder / "results.json").read_text())
    table = tmp_path / "classes.csv"
    content = json.loads(printed("evaluate", folder / "model.keras", "--data", "digits", "--json", "--csv", table))
    assert (content["accuracy"], content["test_images"]) == (trained["accuracy"], 360)
    assert content["loss"] == pytest.approx(trained["loss"], rel=1e-4)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["class"] for row in rows] == list("0123456789")
    assert [float(row["accuracy"]) for row in rows] == content["per_class"]
    if keras.backend.backend() == "tensorflow":
        printed("export", folder, "--format", "tflite", "--output", tmp_path / "model.tflite")
        out = printed("evaluate", tmp_path / "model.tflite", "--data", "digits")
        assert f"{trained['accuracy']:.2%}" in out
        assert "rows are labels" in out
    assert cli.main(["evaluate", str(folder / "model.keras")]) == 2
    assert "is not a run, which would know its test data. Pass them with --data" in capsys.readouterr().err


def test_predict_reads_folders_and_leaves_out_what_is_improbable(finished_run, digit_files, tmp_path, printed):
    folder, *_ = finished_run
    images, table = digit_files[0].parent, tmp_path / "answers.csv"
    answers = json.loads(printed("predict", folder, images, "--threshold", "0.3", "--json", "--csv", table))
    assert [answer["image"] for answer in answers] == list(map(str, digit_files))
    assert all(min(answer["probabilities"], default=1) >= 0.3 for answer in answers)
    assert 10 <= sum(len(answer["labels"]) for answer in answers) + len(answers) <= 40
    rows = list(csv.DictReader(table.read_text().splitlines()))
    expected = [label for answer in answers for label in answer["labels"]]
    assert [row["class"] for row in rows] == expected
    assert printed("predict", folder, images, "--threshold", "1").count("(none)") == 10


def test_a_loss_that_is_not_finite_is_printed_as_a_dash(finished_run, tmp_path, printed):
    folder, *_ = finished_run
    shutil.copytree(folder, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (tmp_path / "run" / "results.json").write_text(json.dumps(results | {"loss": None}))
    out = printed("train", "digits", *QUICK, "--workdir", tmp_path / "run")
    assert re.search(r"% +- +360 ", out)
    printed("card", tmp_path / "run")
    assert "Loss" not in (tmp_path / "run" / "README.md").read_text()
    printed("report", tmp_path / "run", "--output", tmp_path / "report.html", "--images", "10")
    assert '<td class="number">-</td>' in (tmp_path / "report.html").read_text()


def test_convert_features_and_saliency(finished_run, digit_files, tmp_path, printed):
    folder, *_ = finished_run
    printed("convert", folder / "model.keras", tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz") as file:
        assert file["MixerBlock_0/token_mixing/Dense_0/kernel"].shape == (16, 16)
    about = printed("features", folder, "digits", "--layer", "block_0", "--output", tmp_path / "features.npz", "--json")
    assert (json.loads(about)["images"], json.loads(about)["layer"]) == (360, "block_0")
    with np.load(tmp_path / "features.npz") as file:
        assert file["features"].shape == (360, 4, 4, 32)
    drawn = printed("saliency", folder, digit_files[3], "--output", tmp_path / "three.png", "--class-name", "3")
    assert "(class 3)" in drawn
    with Image.open(tmp_path / "three.png") as picture:
        assert picture.size == (1008, 460)


def test_evaluation_and_analysis_of_a_run(finished_run, tmp_path, capsys, monkeypatch):
    folder, *_ = finished_run
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert cli.main(["evaluate", str(folder), "--evaluation-crop", "resize"]) == 0
    assert "rows are labels" in capsys.readouterr().out
    assert (folder / "confusion.png").is_file()
    assert cli.main(["fewshot", str(folder), "digits", "--shots", "1", "5", "--seeds", "0", "1"]) == 0
    assert "360 test images of digits, 10 classes, 32 features of pre_logits" in capsys.readouterr().out
    assert json.loads((folder / "fewshot.json").read_text())["support"] == {"1": 10, "5": 50}
    report = ["report", str(folder), "--output", str(tmp_path / "report.html"), "--open", "--images", "50"]
    assert cli.main(report) == 0
    assert "Confusion matrix" in (tmp_path / "report.html").read_text()
    assert opened == [(tmp_path / "report.html").as_uri()]


def test_the_page_of_experiments_names_commands_and_pictures_that_exist():
    root = Path(__file__).parents[1]
    text = (root / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^keras-mixer (\S+)", text, re.M)) <= set(cli.COMMANDS)
    scripts = {path.stem for path in (root / "experiments").glob("*.py") if "tyro.cli(main" in path.read_text()}
    assert set(re.findall(r"^python -m experiments\.(\w+)", text, re.M)) == scripts
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (root / "docs" / picture).is_file()


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
    folder = Path(keras_mixer_command.__file__).parent
    crashed = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=folder)
    assert crashed.returncode == -signal.SIGABRT
    shown, crash = crashed.stderr.split("Fatal Python error: Aborted")
    assert shown == "a warning of Python\nE0000 00:00:1795707210.8   13724 cuda.cc:1] no device\n"
    assert "<string>" in crash


@pytest.mark.parametrize("level", [None, "0"])
def test_the_log_level_of_the_user_is_kept_and_its_messages_shown(level, monkeypatch):
    filtered = []
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level or "")
    if level is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    monkeypatch.setattr(
        keras_mixer_command, "without_startup_messages", lambda: contextlib.nullcontext(filtered.append(True))
    )
    monkeypatch.setattr(cli, "main", lambda: os.environ["TF_CPP_MIN_LOG_LEVEL"])
    monkeypatch.setattr(sys, "argv", ["keras-mixer", "variants"])
    assert keras_mixer_command.main() == (level or "1")
    assert bool(filtered) == (level is None)


def test_variants_print_the_seven_rows_and_s8(capsys):
    assert cli.main(["variants"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 10
    assert "59,880,472" in out
    assert "12.602" in out


def test_mistakes_end_with_one_line_and_status_2(capsys, tmp_path):
    for arguments, message in [
        (["dance"], "Unknown command 'dance'; valid ones are train, sweep, "),
        (["train", "imagenet99"], "Unknown recipe 'imagenet99'; valid ones are digits"),
        (["train", "--data", str(tmp_path), "--workdir", str(tmp_path / "run")], "two or more class folders"),
        (["predict", str(tmp_path / "nothing"), "a.png"], "There is no model at"),
        (["evaluate", str(tmp_path)], "does not contain a model. Expected a run directory"),
    ]:
        assert cli.main(arguments) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--variant", "B/17"], r"variant must be one of S/32, S/16, .*, got 'B/17'\."),
        (["train", "--label-smoothing", "1.5"], r"label_smoothing must be less than 1, got 1\.5\."),
        (["train", "--epochs", "many"], r"Error parsing --epochs: invalid literal for int.* 'many'"),
        (["train", "--leaning-rate", "1"], r"Unrecognized options: --leaning-rate, 1\. Perhaps .*--learning-rate .*"),
        (["train", "--profile-steps", "5", "2"], r"profile_steps must be ascending, got \(5, 2\)\."),
        (["sweep", "--learning-rates", "0.1", "0"], r"learning_rates must be greater than 0, got 0\.0\."),
        (["predict", "run", "a.png", "--threshold", "2"], r"threshold must be less than or equal to 1, got 2\.0\."),
        (["train", "--steps", "0"], r"steps must be greater than or equal to 1, got 0\."),
        (["export", "run", "--format", "onyx"], r"invalid choice 'onyx' for argument '--format'\..*'saved_model'.*"),
        (["evaluate"], r"Missing .* MODEL .*"),
    ],
)
@pytest.mark.parametrize("columns", ["50", "200"])
def test_options_and_values_that_are_wrong_end_with_one_line_and_status_2(
    arguments, message, columns, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(arguments) == 2
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)


def test_help_explains_every_option_with_its_default(capsys):
    assert cli.main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(name in overview for name in cli.COMMANDS)
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--learning-rate" in text
    assert "default: 0.002" in text
    assert "Side of the model's input in pixels" in text
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    assert "--top-k" in capsys.readouterr().out


def test_help_version_and_a_wrong_command_need_no_package():
    code = """
import sys, keras_mixer_command
for words in (["--help"], ["--version"], ["dance"], []):
    assert keras_mixer_command.answer(words) is not None
print(*sys.modules, file=sys.stderr)
"""
    folder = Path(keras_mixer_command.__file__).parent
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert not {"keras_mixer", "tensorflow", "keras", "numpy", "tyro"} & set(answered.stderr.split())
    assert all(f"\n{group}:\n" in answered.stdout for group in keras_mixer_command.GROUPS)


@pytest.mark.parametrize("arguments", [["variants"], ["predict", "--help"]])
def test_a_command_starts_without_what_others_need(arguments):
    code = f"""
import contextlib, io, sys, keras_mixer
before = set(sys.modules)
from keras_mixer import cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main({arguments})
print(*set(sys.modules) - before)
"""
    added = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"keras_cv", "tensorflow_datasets", "keras_mixer.training", "matplotlib"} & set(added)


def options_of(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"(?:^|[ │])\s*(--[a-z][\w-]*)(?=,? |$)", capsys.readouterr().out, re.M))


def test_sweep_takes_every_option_of_train(capsys):
    assert options_of("train", capsys) < options_of("sweep", capsys)


OF_OTHER_PROGRAMS = {
    "--logdir": "tensorboard",
    "--directory": "http.server",
    "--data_dir": "",
    "--version": "keras-mixer",
}


def test_texts_name_only_options_that_a_command_has(capsys):
    known = set().union(*(options_of(command, capsys) for command in cli.COMMANDS))
    for path in [*Path(cli.__file__).parents[1].rglob("*.py"), Path(keras_mixer_command.__file__)]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", node.value):
                    of_another = option in OF_OTHER_PROGRAMS and OF_OTHER_PROGRAMS[option] in node.value
                    assert option in known or of_another, f"{path}:{node.lineno}: {option}"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            tf.errors.NotFoundError(None, None, "gs://b/data: no such bucket\n\t [[node Read]]"),
            "gs://b/data: no such bucket",
        ),
        (RuntimeError("OutOfRangeError: half a record\nFailed to construct dataset"), "OutOfRangeError: half a record"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_of_tensorflow_and_its_data_sets_end_with_one_line(error, line, monkeypatch, capsys):
    def fail(self):
        raise error

    monkeypatch.setattr(look.Variants, "__call__", fail)
    assert cli.main(["variants"]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_every_command_explains_itself(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        assert name in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path):
    options = ("--devices", "cpu", "--data", "nowhere", "--accumulation-steps", "4", "--dry-run")
    out, _ = run("train", "imagenet1k_l16", *options, cwd=tmp_path)
    assert re.search(r"randaugment_level +15\.0", out)
    assert re.search(r"parameters +207,171,168 without the head", out)
    assert re.search(r"steps +unknown before the data are read", out)
    assert re.search(r"images per device +4,096", out)
    assert not list(tmp_path.iterdir())


def test_a_sweep_prints_every_rate_and_the_best(tmp_path):
    quick = [
        *SMALL,
        "--epochs",
        "1",
        "--global-batch-size",
        "128",
        "--xla-on-cpu",
        "False",
        "--randaugment-num-ops",
        "0",
    ]
    rates = ("--learning-rates", "1e-6", "1e-2", "--holdout", "0.25", "--skip-final")
    out, _ = run("sweep", "digits", *quick, "--warmup-steps", "1", *rates, cwd=tmp_path)
    assert re.search(r"1e-06 +\d+\.\d\d%\n0\.01 +\d+\.\d\d%\n\nBest: 0\.01", out)
    assert (tmp_path / "runs" / "digits_sweep" / "sweep.json").is_file()


def test_a_recipe_takes_class_weights_as_a_word_or_numbers(tmp_path):
    for given in (["balanced"], ["1", "2.5"]):
        out, _ = run("train", "digits", "--class-weights", *given, "--dry-run", cwd=tmp_path)
        assert f"class_weights           {given[0] if len(given) == 1 else '(1.0, 2.5)'}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fewshot", "run", "digits", "--batch-size", "0"], "batch_size must be greater than or equal to 1, got 0."),
        (
            ["features", "run", "digits", "--output", "f.npz", "--batch-size", "-1"],
            "batch_size must be greater than or equal to 1, got -1.",
        ),
        (["imagenet", "run", "--batch-size", "0"], "batch_size must be greater than or equal to 1, got 0."),
        (["export", "run", "--format", "tflite", "--images", "0"], "images must be greater than or equal to 1, got 0."),
        (["variants", "--classes", "-1"], "classes must be greater than or equal to 0, got -1."),
    ],
)
def test_numbers_out_of_range_are_rejected_before_anything_is_read(words, message, capsys):
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
