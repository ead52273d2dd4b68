"""The notebooks keep their form and run from top to bottom with small numbers (marker `notebooks`; minutes)."""

import ast
import importlib.metadata
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import nbformat
import numpy as np
import pytest
from image_files import write_folder
from model_server import ModelServer
from tfds_files import write_tfds
from weight_files import linen

import keras_mixer
from keras_mixer.cli import COMMANDS
from keras_mixer.variants import SMALL_VARIANTS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ["00_quickstart", "01_first_look", "02_colab_tpu_finetune", "04_export_and_serve", "05_paper_figures"]
EXECUTED = {"00_quickstart", "04_export_and_serve"}  # kept with their outputs; the others need downloads
SECONDS_A_CELL = 1800
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


def text_of(name):
    return "\n".join(cell.source for cell in read(name).cells)


def python(name):
    """The code of a notebook without shell lines and magics."""
    code = "\n".join(cell.source for cell in cells(name, "code"))
    return ast.parse(re.sub(r"^( *)[!%].*$", r"\1pass", code, flags=re.M))


def test_all_notebooks_are_known_here():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) ", overview, re.M) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_valid_and_keeps_outputs_of_one_run_only(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = cells(name, "code")
    if name in EXECUTED:
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
        assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    else:
        assert not [cell for cell in code if cell.outputs or cell.execution_count]
    assert all(cell.metadata in ({}, {"tags": ["parameters"]}) for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_goal_hardware_and_run_time(name):
    first, install, *_ = read(name).cells
    assert first.source.startswith("# ")
    stated = re.findall(r"^\*\*(.+?)\.\*\* \S", first.source, re.M)
    assert stated == ["Goal", "Hardware", "Run time", *([] if name in EXECUTED else ["Outputs"])]
    assert install.source.startswith("## Install\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_public_names_only_and_defines_no_class(name):
    for node in ast.walk(python(name)):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] != "keras_mixer"
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("keras_mixer.") for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "keras_mixer":
            assert node.attr in {*keras_mixer._ON_FIRST_USE, *vars(keras_mixer)}
            assert not node.attr.startswith("_")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_names_commands_that_exist(name):
    text = text_of(name)
    used = re.findall(r"keras-mixer (\w[\w-]*)(?: (\w[\w-]*))?", text)
    assert {command for command, _ in used} <= set(COMMANDS)
    assert {recipe for command, recipe in used if command == "train" and recipe} <= set(keras_mixer.RECIPES)
    for script in re.findall(r"!python (?:-m |\{CLONE\}/)((?:experiments|benchmarks)[./]\w+)", text):
        assert (ROOT / script.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_no_absolute_path_and_no_trace_of_tests(name):
    paths = re.findall(r"""(?<=[\s"'(=])(?:/|~/|[A-Z]:\\)[\w.][\w./\\-]*""", text_of(name))
    assert {path for path in paths if not path.startswith("/content/drive")} == set()  # where Colab mounts Drive
    assert not re.search(r"stand_in|SMALL|KERAS_MIXER_", text_of(name))


def test_the_install_cells_differ_in_their_extras_only():
    code = [cells(name, "code")[0].source for name in NAMES]
    assert len({re.sub(r'"(jax)?,?(cpu)?"', '""', one) for one in code}) == 1


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Runs the first cell in an empty folder, on a machine without the package; gives back the commands it runs."""
    from IPython.core.inputtransformer2 import TransformerManager

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "")
    distribution = SimpleNamespace(name="keras-mixer", version="0.1.0", metadata={"Name": "keras-mixer"})
    there = {"numpy": SimpleNamespace(name="numpy", version="2.1.3")}

    def distributions(name=None):
        return [one for one in there.values() if name in (None, one.name)]

    def install(source="", pip_works=True, installed=False):
        commands = []

        def pip(_, line):
            commands.append(f"pip {line}")
            there.update({"keras-mixer": distribution} if pip_works else {})

        if installed:
            there["keras-mixer"] = distribution
        code = cells("01_first_look", "code")[0].source.replace('SOURCE = ""', f'SOURCE = "{source}"')
        names = {"get_ipython": lambda: SimpleNamespace(system=commands.append, run_line_magic=pip)}
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "distributions", distributions)
            exec(compile(TransformerManager().transform_cell(code), "<cell>", "exec"), names)
        return names["CLONE"], commands

    return install


def write_clone(folder):
    (folder / "saved_models" / "mixer_digits").mkdir(parents=True)
    (folder / "keras_mixer").mkdir()


@pytest.mark.parametrize("clone", [".", "..", "keras_mixer", "any name"])
def test_in_a_clone_the_first_cell_installs_the_clone(clone, install, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_clone(Path(clone))
    found, commands = install()
    assert found.resolve() == Path(clone).resolve()
    assert len(commands) == 1
    assert commands[0].startswith("pip install -q")
    assert Path("kept.txt").read_text() == "numpy==2.1.3\n"


def test_without_a_clone_the_first_cell_asks_for_an_address_in_a_sentence(install, tmp_path):
    (tmp_path / "keras_mixer").mkdir()  # a folder of that name is not a clone
    with pytest.raises(SystemExit, match=r"^Set SOURCE in this cell to the address of the repository, then run all"):
        install()
    _, commands = install("https://example.org/any")
    assert commands[0] == "git clone -q --depth 1 {SOURCE} keras_mixer_clone"  # IPython fills in the name
    assert commands[1].startswith('pip install -q "keras-mixer[{extras}] @ {CLONE.as_uri()}" -r kept.txt')


def test_a_failed_install_stops_the_notebook_and_a_finished_one_is_not_repeated(install, tmp_path):
    write_clone(tmp_path / "clone")
    with pytest.raises(SystemExit, match="installation failed"):
        install(pip_works=False)
    assert install(installed=True)[1] == []


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """Environment variables that lead to files where downloads would be; the data have the real names and formats."""
    folder = tmp_path_factory.mktemp("downloads")
    (folder / "keras_mixer").mkdir()
    write_weights(folder / "keras_mixer" / "imagenet1k-Mixer-B_16.npz", keras_mixer.MixerB16())
    sizes = vars(SMALL_VARIANTS["tiny/4"])
    write_weights(folder / "tiny.npz", keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), classes=50))
    write_tfds(folder, "oxford_iiit_pet", {"train": pictures(74, 37), "test": pictures(37, 37)})
    return {"KERAS_HOME": str(folder), "TFDS_DATA_DIR": str(folder)}


def write_weights(path, model):
    """Random weights in the official layout."""
    rng = np.random.default_rng(0)
    arrays = {}
    for weight in model.weights:
        scale = np.prod(weight.shape[:-1]) ** -0.5 if weight.path.endswith("kernel") else 0.1
        arrays[weight.path] = scale * rng.standard_normal(weight.shape, np.float32) + weight.path.endswith("gamma")
    np.savez(path, **linen(arrays))


def pictures(count, classes):
    """Examples whose color tells the class."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % classes
    noise = rng.integers(0, 40, (count, 40, 48, 3))
    colors = np.stack([labels * 53 % 216, labels * 101 % 216, labels * 151 % 216], -1)
    images = (noise + colors[:, None, None]).astype(np.uint8)
    return [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]


@pytest.fixture
def run(stand_ins, tmp_path):
    """Runs a notebook next to a clone, in a process of its own; gives back its text and its number of images.

    Keyword arguments replace values of the cell tagged `parameters`, by a cell below it.
    """
    from nbclient import NotebookClient

    (tmp_path / "clone").symlink_to(ROOT, target_is_directory=True)

    def run(name, environment=None, **parameters):
        notebook = read(name)
        if parameters:
            (tagged,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
            assigned = {node.id for node in ast.walk(ast.parse(notebook.cells[tagged].source)) if hasattr(node, "id")}
            assert set(parameters) <= assigned
            code = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
            notebook.cells.insert(tagged + 1, nbformat.v4.new_code_cell(code))
        notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT_SHELL))
        inherited = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "XLA_FLAGS")}
        own = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "IPYTHONDIR": str(tmp_path / ".ipython"),
        }
        client = NotebookClient(
            notebook, timeout=SECONDS_A_CELL, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        try:
            client.execute(env=inherited | stand_ins | own | (environment or {}))
        finally:
            nbformat.write(notebook, tmp_path / f"{name}.ipynb")  # with outputs, to look at
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        text = "".join(output.get("text", "") for output in outputs)
        return text, sum("image/png" in output.get("data", {}) for output in outputs)

    return run


@pytest.mark.notebooks
def test_00_classifies_trains_and_predicts(run):
    text, images = run("00_quickstart")
    assert images == 3
    assert float(re.search(r"(\S+)% accuracy on 360 test images", text)[1]) > 97


@pytest.mark.notebooks
def test_01_shows_predictions_and_the_inside(run):
    text, images = run("01_first_look")
    assert images == 3
    assert "block_11   (2, 14, 14, 768)" in text
    assert float(re.search(r"largest difference (\S+),", text)[1]) < 1e-4


@pytest.mark.notebooks
@pytest.mark.parametrize("data", ["oxford_iiit_pet", "photos"])
def test_02_fine_tunes_on_four_devices_resumes_and_agrees_with_its_export(data, run, stand_ins, tmp_path):
    if data == "photos":
        write_folder(tmp_path / data, images_per_class=20, classes=("cat", "dog"), parts=())
    text, images = run(
        "02_colab_tpu_finetune",
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        DATA=data,
        WEIGHTS=str(Path(stand_ins["KERAS_HOME"]) / "tiny.npz"),
        SETTINGS={"variant": "tiny/4", "image_size": 32, "steps": 12, "warmup_steps": 2, "steps_per_epoch": 4},
        BATCH={"global_batch_size": 16, "accumulation_steps": 2, "devices": "4"},
    )
    assert images == 3
    assert "4 x cpu" in text
    assert "DataParallel on 4 CPU, 4 images per device and 16 per step" in text
    assert re.search(r"Resuming after step [1-9]\d* of \d+", text)
    assert float(re.search(r"largest difference in probability: (\S+)", text)[1]) < 1e-5
    assert (tmp_path / "runs" / data / "export/model.tflite").is_file()


@pytest.mark.notebooks
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the server's stand-in answers by TensorFlow")
def test_04_asks_a_server(run, tmp_path):
    base_path = tmp_path / "served/digits"
    base_path.mkdir(parents=True)
    with ModelServer("digits", base_path) as server:
        text, images = run("04_export_and_serve", SERVER=f"http://127.0.0.1:{server.rest_port}", EPOCHS=10)
        assert server.answered == 2
    assert images == 3
    assert "['7', '4'] largest difference" in text
    assert (tmp_path / "runs/digits/export/model.tflite").is_file()


@pytest.mark.notebooks
def test_05_draws_every_figure(run, tmp_path):
    _, images = run(
        "05_paper_figures",
        WEIGHTS="imagenet1k",
        TRAINING="--recipe smoke --training-images 100 --steps 4 --points 2 --seeds 0",
        NETWORKS="mixer",
        GROUPS="4",
        PARTS="--recipe smoke --fractions 0.1 --steps 10 --seeds 0",
        MEASURED="S/32",
        SIDES="32 64",
        SECONDS="0.2",
    )
    assert images == 9
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"token_weights", "stem", "permutation", "pareto", "throughput", "data_size"} <= drawn
    assert {"tradeoff", "linear_cost", "untied"} <= drawn
