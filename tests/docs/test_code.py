"""Runs the commands and Python code of README and the guides, page by page, from top to bottom.

Tests use stand-ins: two small image folders for `photos`, a tiny model and a few steps for every training run, the
digits model or random weights for published weights. A block that cannot run is marked by a comment above it; its
commands must parse and its names must exist all the same. Where output is shown, by a comment in the code or in a text
block below it that is marked as printed, it is compared.
"""

import ast
import contextlib
import dataclasses
import functools
import importlib
import re
import shlex
import shutil
from unittest import mock

import keras
import pytest
import tyro
from image_files import write_folder
from pages import ROOT, blocks, pages

import keras_mixer
from keras_mixer import cli
from keras_mixer.cli import train
from keras_mixer.training import fit as loop
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve
from keras_mixer.weights import published

MEASUREMENTS = {"docs/experiments.md", "docs/performance.md", "saved_models/README.md"}  # only parsed: too slow
STAND_INS = {"README.md", "keras.md", "features.md"}  # pages that build `MixerB16` with published weights
SMALL = {"variant": "tiny/4", "num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}
SMALL |= {"steps": 4, "warmup_steps": 1, "global_batch_size": 16, "precision": "float32"}
SMALL |= {"randaugment_num_ops": 0, "xla_on_cpu": False}
RULE = "\u251c"  # between the rows of `model.summary()`; pages leave these lines out


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with everything that the pages assume."""
    folder = tmp_path_factory.mktemp("table")
    for name in ("docs/images", "saved_models"):
        shutil.copytree(ROOT / name, folder / name)
    write_folder(folder / "photos", images_per_class=20, classes=("cat", "dog"), parts=())
    shutil.copy(folder / "photos" / "cat" / "1.jpg", folder / "photo.jpg")
    with contextlib.chdir(folder):
        small_fit("digits", workdir="runs/digits")
    return folder


def small_fit(recipe, *, workdir, **options):
    """`keras_mixer.fit` of a tiny model for four steps; images of photographs shrink with it."""
    fields = {name: options.pop(name) for name in set(options) & set(Recipe.__dataclass_fields__)}
    recipe = resolve(recipe, **fields)
    side = recipe.image_size if recipe.image_size < 224 else recipe.image_size // 14
    weights = "runs/digits/model.keras" if recipe.weights in published.NAMES else recipe.weights
    recipe = dataclasses.replace(recipe, image_size=side, weights=weights, **SMALL)
    return loop.fit(recipe, workdir=workdir, **options)


def small_mixer(weights=None, **options):
    """`keras_mixer.MixerB16` with one block of narrow MLPs and random weights."""
    return keras_mixer.Mixer(16, 1, 768, 8, 16, **options)


def commands(code):
    """The words of each command in a shell block, without leading variables."""
    for part in re.split(r"\n|\s&&\s", code.replace("\\\n", " ").replace(".venv/bin/", "")):
        words = shlex.split(part, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        yield words


def parse(arguments):
    """Fails unless `keras-mixer` accepts these options and values; runs nothing."""
    parsed = tyro.cli
    with mock.patch.object(tyro, "cli", lambda *given, **options: parsed(*given, **options) and (lambda: None)):
        assert cli.main(arguments) == 0


def parse_script(words):
    """Fails unless `python -m experiments.NAME`, or `python benchmarks/NAME.py`, is there and accepts these options."""
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    if words[1] == "-m" and script.startswith("experiments."):
        main = importlib.import_module(script).main
        nothing = functools.wraps(main, updated=())(lambda *values, **named: None)
        tyro.cli(nothing, args=words[3:], config=(tyro.conf.OmitArgPrefixes,))
    elif script.endswith(".py"):
        assert (ROOT / script).is_file(), words


def without_numbers(line):
    """`99.72%  100.00%` -> `N% N%`, so that lines of another training compare equal."""
    return re.sub(r"\d[\d,.]*(e-\d+)?", "N", re.sub(r"\s{2,}", " ", line.strip()))


# Keras warns of the default of `fit(shuffle=)` wherever it gets a dataset.
@pytest.mark.notebooks
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the guides are on TensorFlow")
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_a_page_runs_from_top_to_bottom(page, table, tmp_path, monkeypatch, capsys):
    shutil.copytree(table, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras_mixer, "fit", small_fit, raising=False)
    monkeypatch.setattr(train, "fit", small_fit)
    if page.name in STAND_INS:
        monkeypatch.setattr(keras_mixer, "MixerB16", small_mixer)
    measured, names, printed = str(page.relative_to(ROOT)) in MEASUREMENTS, {"__name__": "__page__"}, []
    for mark, language, code in blocks(page):
        runs = not (measured or mark.startswith("not run here: "))
        if runs and language in ("bash", "python"):
            capsys.readouterr()
        if language == "bash":
            for words in commands(code):
                if words[:1] == ["python"]:
                    parse_script(words)
                elif words[:1] == ["keras-mixer"] and not runs:
                    parse(words[1:])
                elif words[:1] == ["keras-mixer"]:
                    if "--quantization" in words:  # which may change the answers of a barely trained model
                        words += ["--min-agreement", "0"]
                    assert cli.main(words[1:]) == 0, capsys.readouterr().err
        elif language == "python":
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "keras_mixer":
                    assert node.attr in dir(keras_mixer)
            if runs:
                exec(compile(code, "<page>", "exec"), names)
        elif mark == "printed by the block above":
            shown = [line.rstrip() for line in printed if not line.startswith(RULE)]
            assert [line.rstrip() for line in code.splitlines()] == shown
        elif mark.startswith("among the lines printed by the block above"):
            lines = iter([without_numbers(line) for line in printed])
            for line in code.splitlines():
                assert without_numbers(line) in lines, (line, printed)  # in this order: `in` consumes the iterator
        if runs and language in ("bash", "python"):
            printed = capsys.readouterr().out.splitlines()
            assert set(re.findall(r"^ *print\(.*\)  # (.+)$", code, re.M)) <= set(printed)
    for workdir in (tmp_path / "runs").iterdir():  # so that later pages find them finished
        shutil.copytree(workdir, table / "runs" / workdir.name, dirs_exist_ok=True)
