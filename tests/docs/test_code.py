"""Runs the commands and Python code of README and the guides, page by page, from top to bottom.

Tests use stand-ins: two small image folders for `photos`, a tiny model and a few steps for every training run, the
digits model or random weights for published weights. A block that cannot run is marked by a comment above it; its
commands must parse and its imports must exist all the same. Where output is shown, by a comment in the code or in a
text block below it that is marked as printed, it is compared.
"""

import ast
import contextlib
import functools
import importlib
import re
import shlex
import shutil
import sys

import keras
import pytest
import tyro
from image_files import write_folder
from pages import ROOT, blocks, pages

import keras_mixer
from keras_mixer import cli
from keras_mixer.training import fit as loop
from keras_mixer.weights import published

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the guides are on TensorFlow")

REASONS = {  # accepted reasons for not running a block
    "downloads published weights",
    "downloads LiteRT.js",
    "needs ImageNet",
    "needs a bucket",
    "needs TensorFlow Serving",
    "needs tensorflow-serving-api",
    "needs a TPU",
    "needs a GPU",
    "needs libtpu",
    "needs multiple devices",
    "needs multiple machines",
    "needs the extras onnx and openvino",
    "multiple trainings",
    "starts a server",
    "uploads to the Hugging Face Hub",
}
NOT_INSTALLED = {"needs tensorflow-serving-api", "needs the extras onnx and openvino"}  # so imports are not tried
MEASUREMENTS = {"docs/experiments.md", "docs/performance.md", "saved_models/README.md"}  # only parsed: too slow
OTHER_PROGRAMS = {
    "python3",
    "python3.12",
    "python",
    "pip",
    "pip-licenses",
    "pytest",
    "source",
    "export",
    "docker",
    "curl",
}
OTHER_PROGRAMS |= {"echo", "gcloud", "hf", "tensorboard", "mkdocs"}
SMALL = {"variant": "tiny/4", "num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}
SMALL |= {"steps": 4, "warmup_steps": 1, "global_batch_size": 16, "precision": "float32", "randaugment_num_ops": 0}
SMALL |= {"xla_on_cpu": False}
STAND_IN = "runs/digits/model.keras"  # for published weights
RULE = "\u251c"  # between the rows of `model.summary()`; pages leave these lines out
STAND_INS = {"README.md", "keras.md", "features.md"}  # pages that build `MixerB16` with published weights
SIDE, LARGE, TIMES = 16, 224, 14  # pixels; sides from LARGE on are divided by TIMES


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with everything that the pages assume."""
    folder = tmp_path_factory.mktemp("table")
    for name in ("docs/images", "saved_models"):
        shutil.copytree(ROOT / name, folder / name)
    write_folder(folder / "photos", images_per_class=20, classes=("cat", "dog"), parts=())
    shutil.copy(folder / "photos" / "cat" / "1.jpg", folder / "photo.jpg")
    with contextlib.chdir(folder):
        assert cli.main(shrunk(["train", "digits"])) == 0
    return folder


def shrunk(arguments):
    """A command with small settings appended; the last value of an option wins.

    Quantization may change the predictions of a barely trained model, so its accuracy is not checked here.
    """
    command, *rest = arguments
    if command == "export":
        return [*arguments, "--images", "32", *(["--min-agreement", "0"] if "--quantization" in rest else [])]
    if command != "train" or "--dry-run" in rest:
        return arguments
    recipe = keras_mixer.RECIPES[rest[0] if rest and not rest[0].startswith("-") else "digits"]
    fields = dict(SMALL)
    if "--image-size" in rest:
        side = int(rest[rest.index("--image-size") + 1])
        fields["image_size"] = side // TIMES if side >= LARGE else side
    else:
        fields["image_size"] = SIDE
    wanted = rest[rest.index("--weights") + 1] if "--weights" in rest else recipe.weights
    if wanted in published.names():
        fields["weights"] = STAND_IN
    options = [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [*arguments, *options]


def small_fit(recipe, *, workdir, **overrides):
    """`keras_mixer.fit` with the same small settings."""
    fields = {"image_size": SIDE} | overrides | SMALL
    return loop.fit(recipe, workdir=workdir, log=lambda line: None, **fields)


def small_mixer(weights=None, **options):
    """`keras_mixer.MixerB16` with one block of narrow MLPs and random weights."""
    return keras_mixer.Mixer(16, 1, 768, 8, 16, **options)


def commands(code):
    """`(program, arguments)` of each command in a shell block, without leading variables."""
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s&&\s", line):
            words = shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words:
                yield words[0].removeprefix(".venv/bin/"), words[1:]


class Parsed(Exception):
    """Raised after a command line was parsed."""


def parse(arguments, monkeypatch):
    """Fails unless a command accepts these options and values; runs nothing."""
    real = tyro.cli

    def only_parse(function, **options):
        @functools.wraps(function, updated=())
        def nothing(*values, **named):
            return None

        real(function if isinstance(function, type) else nothing, **options)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(tyro, "cli", only_parse)
        with pytest.raises(Parsed):
            cli.main(arguments)


def parse_script(arguments, monkeypatch):
    """Fails unless `python -m experiments.NAME`, or `python benchmarks/NAME.py`, is there and accepts these options."""
    if arguments[0] == "-c":
        ast.parse(arguments[1])
        return
    if arguments[0].endswith(".py"):
        assert (ROOT / arguments[0]).is_file(), arguments
    if arguments[0] == "-m" and arguments[1].startswith("experiments."):
        main = importlib.import_module(arguments[1]).main
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", arguments[1:])
            tyro.cli(
                functools.wraps(main, updated=())(lambda *values, **named: None), config=(tyro.conf.OmitArgPrefixes,)
            )


def run_shell(code, run, monkeypatch):
    for program, arguments in commands(code):
        if program == "keras-mixer":
            run(arguments)
        elif program == "python":
            parse_script(arguments, monkeypatch)
        else:
            assert program in OTHER_PROGRAMS, f"{program} is not a program that the pages may call"


def run_python(code, names, capsys):
    capsys.readouterr()
    exec(compile(code, "<page>", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    for expected in re.findall(r"^ *print\(.*\)  # (.+)$", code, re.M):
        assert expected in printed
    return printed


def without_numbers(line):
    """`99.72%  100.00%` -> `N% N%`, so that lines of another training compare equal."""
    return re.sub(r"\d[\d,.]*(e-\d+)?", "N", re.sub(r"\s{2,}", " ", line.strip()))


def only_imports(code):
    tree = ast.parse(code)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, "<page>", "exec"), {})


# Keras warns of the default of `fit(shuffle=)` wherever it gets a dataset.
@pytest.mark.notebooks
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_a_page_runs_from_top_to_bottom(page, table, tmp_path, monkeypatch, capsys):
    shutil.copytree(table, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras_mixer, "fit", small_fit, raising=False)
    if page.name in STAND_INS:
        monkeypatch.setattr(keras_mixer, "MixerB16", small_mixer)
    names, printed = {"__name__": "__page__"}, []

    def run(arguments):
        assert cli.main(shrunk(arguments)) == 0, capsys.readouterr().err
        if arguments[0] == "train" and "--workdir" in arguments:  # so that later pages find it finished
            workdir = arguments[arguments.index("--workdir") + 1]
            shutil.copytree(workdir, table / workdir, dirs_exist_ok=True)

    for block in blocks(page):
        assert block.not_run is None or block.not_run in REASONS, block
        measured = str(page.relative_to(ROOT)) in MEASUREMENTS
        if block.language == "bash":
            how = functools.partial(parse, monkeypatch=monkeypatch) if block.not_run or measured else run
            capsys.readouterr()
            run_shell(block.code, how, monkeypatch)
            printed = capsys.readouterr().out.splitlines()
        elif block.language == "python":
            if block.not_run in NOT_INSTALLED:
                continue
            if block.not_run:
                only_imports(block.code)
            else:
                printed = run_python(block.code, names, capsys)
        elif block.printed:
            shown = [line.rstrip() for line in printed if not line.startswith(RULE)]
            assert [line.rstrip() for line in block.code.splitlines()] == shown, block
        elif block.among:
            lines = iter([without_numbers(line) for line in printed])
            for line in block.code.splitlines():
                assert without_numbers(line) in lines, (line, printed)  # in this order: `in` consumes the iterator
        else:
            assert block.language in ("text", "json"), f"{page}: no check for blocks in {block.language!r}"


def test_a_command_that_does_not_parse_is_found(monkeypatch):
    for arguments in (["train", "digits", "--leaning-rate", "1"], ["plot", "x"]):
        with pytest.raises((SystemExit, pytest.fail.Exception)):
            parse(arguments, monkeypatch)
    with pytest.raises(SystemExit):
        parse_script(["-m", "experiments.pareto", "--outputs", "p.png"], monkeypatch)
    with pytest.raises(AssertionError):
        parse_script(["benchmarks/no_such_script.py"], monkeypatch)
