"""The notebooks keep their form and, in small mode, run from top to bottom (marker `notebooks`; minutes)."""

import ast
import json
import os
import re
import sys
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest
from model_server import ModelServer
from tfds_files import write_tfds
from weight_files import linen

import keras_mixer
from keras_mixer.cli import COMMANDS
from keras_mixer.variants import SMALL_VARIANTS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ["01_first_look", "02_colab_tpu_finetune", "03_pretrain_imagenet", "04_export_and_serve", "05_paper_figures"]
REPOSITORY = "OWNER/keras_mixer"  # the one placeholder, until the project has an address; notebooks/README.md says how
COLAB = "https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
SECONDS_A_CELL = 1800
SECONDS_OR_MORE = re.compile(r"\d (?:s|min|minutes|hours)\b")
# A failing `!command` does not stop a notebook; here it must.
STRICT_SHELL = """
def _checked(_line, _system=get_ipython().system):
    _system(_line)
    if get_ipython().user_ns["_exit_code"]:
        raise RuntimeError(f"{_line} ended with status {get_ipython().user_ns['_exit_code']}")

get_ipython().system = _checked
"""


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def cells(name, kind):
    return [cell for cell in read(name).cells if cell.cell_type == kind]


def python(name):
    """The code of a notebook without shell lines and magics."""
    code = "\n".join(cell.source for cell in cells(name, "code") if not cell.source.startswith("%%"))
    return ast.parse(re.sub(r"^( *)[!%].*$", r"\1pass", code, flags=re.M))


def text_of(name):
    return "\n".join(cell.source for cell in read(name).cells)


def test_all_notebooks_are_known_here_and_in_the_overview():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert COLAB.format(repository=REPOSITORY, name=name) in overview
        assert f"({name}.ipynb)" in overview
    run_times = [row.split("|")[4].strip() for row in overview.splitlines() if row.startswith("| [0")]
    assert len(run_times) == len(NAMES)
    assert all(SECONDS_OR_MORE.search(run_time) for run_time in run_times)
    text = overview + "".join(map(text_of, NAMES))
    named = re.findall(r"(?:github\.com|colab\.research\.google\.com/github)/([\w-]+/keras.mixer)", text)
    assert set(named) == {REPOSITORY}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_without_outputs_and_begins_with_goal_hardware_and_run_time(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in cells(name, "code"):
        assert (cell.outputs, cell.execution_count, cell.metadata) == ([], None, {})
    first, second, *_ = notebook.cells
    assert first.source.startswith("# ")
    assert COLAB.format(repository=REPOSITORY, name=name) in first.source
    assert re.findall(r"^\*\*(.+?)\.\*\* \S", first.source, re.M) == ["Goal", "Hardware", "Run time"]
    assert SECONDS_OR_MORE.search(first.source.split("**Run time.**")[1])
    assert second.source.startswith("## Install\n")
    assert re.search(r"^## Parameters$", "\n".join(cell.source for cell in notebook.cells[1:4]), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_public_names_and_commands_that_exist_and_no_path_of_a_machine(name):
    for node in ast.walk(python(name)):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] != "keras_mixer"
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("keras_mixer.") for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "keras_mixer":
            assert node.attr in dir(keras_mixer)
            assert not node.attr.startswith("_")
    text = text_of(name)
    used = re.findall(r"keras-mixer (\w[\w-]*)(?: (\w[\w-]*))?", text)
    assert {command for command, _ in used} <= set(COMMANDS)
    assert {recipe for command, recipe in used if command == "train" and recipe} <= {*keras_mixer.RECIPES, "RECIPE"}
    for script in re.findall(r"!python (?:-m |\{CLONE\}/)((?:experiments|benchmarks)[./]\w+)", text):
        assert (ROOT / script.replace(".", "/")).with_suffix(".py").is_file(), script
    paths = re.findall(r"""(?<=[\s"'(=])(?:/|~/|[A-Z]:\\)[\w.][\w./\\-]*""", text)
    assert {path for path in paths if not path.startswith("/content/drive")} == set()  # where Colab mounts Drive


def test_the_install_cells_differ_in_their_extras_only():
    code = [cells(name, "code")[0].source for name in NAMES]
    assert len({re.sub(r'"(jax)?,?(cpu)?"', '""', one) for one in code}) == 1
    assert f"git+https://github.com/{REPOSITORY}" in code[0]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """What takes the place of downloads: random weights in official files, class names, small data under real names."""
    folder = tmp_path_factory.mktemp("notebooks") / "stand_in"
    folder.mkdir()
    write_weights(folder / "imagenet1k_b16.npz", keras_mixer.MixerB16())
    sizes = vars(SMALL_VARIANTS["tiny/4"])
    write_weights(folder / "tiny.npz", keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), classes=50))
    index = {str(i): [f"n{i:08}", f"class {i}"] for i in range(1000)}
    (folder / "imagenet_class_index.json").write_text(json.dumps(index), encoding="utf-8")
    data = folder / "tensorflow_datasets"
    write_tfds(data, "oxford_iiit_pet", {"train": pictures(74, 37), "test": pictures(37, 37)})
    write_tfds(data, "imagenet2012", {"train": pictures(66, 1000), "validation": pictures(20, 1000)})
    return folder


def write_weights(path, model):
    rng = np.random.default_rng(0)
    arrays = {}
    for weight in model.weights:
        scale = np.prod(weight.shape[:-1]) ** -0.5 if weight.path.endswith("kernel") else 0.1
        arrays[weight.path] = scale * rng.standard_normal(weight.shape, np.float32) + weight.path.endswith("gamma")
    np.savez(path, **linen(arrays, sum(name.endswith("layer_norm_0/beta") for name in arrays)))


def pictures(count, classes):
    """Examples whose colour tells the class."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % classes
    noise = rng.integers(0, 40, (count, 40, 48, 3))
    colours = np.stack([labels * 53 % 216, labels * 101 % 216, labels * 151 % 216], -1)
    images = (noise + colours[:, None, None]).astype(np.uint8)
    return [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]


@pytest.fixture
def run(stand_in, tmp_path):
    """Runs a notebook in an empty folder, in a process of its own; gives back its text and its pictures."""
    from nbclient import NotebookClient

    (tmp_path / "stand_in").symlink_to(stand_in, target_is_directory=True)

    def run(name, **environment):
        notebook = read(name)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT_SHELL))
        inherited = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "XLA_FLAGS")}
        own = {
            "KERAS_MIXER_SMALL": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "IPYTHONDIR": str(tmp_path / ".ipython"),
        }
        client = NotebookClient(
            notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        try:
            client.execute(env=inherited | own | environment)
        finally:
            nbformat.write(notebook, tmp_path / f"{name}.ipynb")  # with outputs, to look at
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        text = "".join(output.get("text", "") for output in outputs)
        return text, [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]

    return run


@pytest.mark.notebooks
def test_01_shows_predictions_and_the_inside(run):
    text, images = run("01_first_look")
    assert len(images) == 3
    assert "block_11   (2, 14, 14, 768)" in text
    assert float(re.search(r"largest difference (\S+),", text)[1]) < 1e-4


@pytest.mark.notebooks
def test_02_fine_tunes_on_four_devices_and_agrees_with_its_export(run, tmp_path):
    text, images = run("02_colab_tpu_finetune")
    assert len(images) == 1
    assert "DataParallel on 4 CPU, 4 images per device and 16 per step" in text
    assert float(re.search(r"largest difference in probability: (\S+)", text)[1]) < 1e-5
    assert (tmp_path / "runs/pets/export/model.tflite").is_file()


@pytest.mark.notebooks
def test_03_plans_resumes_and_trains(run, tmp_path):
    text, _ = run("03_pretrain_imagenet")
    assert re.search(r"training images +1,268,355\s", text)
    assert re.search(r"Resuming after step [1-9]\d* of \d+", text)
    assert (tmp_path / "runs/imagenet/model.keras").is_file()
    assert re.search(r"ImageNet +\d+\.\d\d% +20 ", text)
    assert "Not measured:" in text


@pytest.mark.notebooks
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the server's stand-in answers by TensorFlow")
def test_04_asks_a_server(run, tmp_path):
    base_path = tmp_path / "served/digits"
    base_path.mkdir(parents=True)
    with ModelServer("digits", base_path) as server:
        text, images = run("04_export_and_serve", MODEL_SERVER=f"http://127.0.0.1:{server.rest_port}")
        assert server.answered == 2
    assert len(images) == 1
    assert "['7', '4'] largest difference" in text
    assert (tmp_path / "runs/digits/export/model.tflite").is_file()


@pytest.mark.notebooks
def test_05_draws_every_figure(run, tmp_path):
    _, images = run("05_paper_figures", KERAS_MIXER_CLONE=str(ROOT))
    assert len(images) == 9
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"token_weights", "stem", "permutation", "pareto", "throughput", "data_size"} <= drawn
    assert {"tradeoff", "linear_cost", "untied"} <= drawn
