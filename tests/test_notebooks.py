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
from conftest import randomize
from image_files import write_folder
from model_server import ModelServer

import keras_mixer
from keras_mixer.cli import COMMANDS
from keras_mixer.variants import KNOWN_VARIANTS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = ["00_quickstart", "01_first_look", "02_colab_tpu_finetune", "04_export_and_serve", "05_paper_figures"]
EXECUTED = {"00_quickstart", "04_export_and_serve"}  # kept with their outputs; the others need downloads
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


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def test_all_notebooks_are_known_here():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    overview = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) ", overview, re.M) == NAMES
    installing = [code_cells(name)[0].source for name in NAMES]
    assert len({re.sub(r'"(jax)?,?(cpu)?"', '""', code) for code in installing}) == 1  # extras apart


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_states_its_goal_and_keeps_outputs_of_one_run_only(name):
    notebook, code = read(name), code_cells(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    if name in EXECUTED:
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert not [output for output in outputs if output.output_type == "error"]
    else:
        assert not [cell for cell in code if cell.outputs or cell.execution_count]
    first, install, *_ = notebook.cells
    stated = re.findall(r"^\*\*(.+?)\.\*\* \S", first.source, re.M)
    assert stated == ["Goal", "Hardware", "Run time", *([] if name in EXECUTED else ["Outputs"])]
    assert install.source.startswith("## Install\n")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_what_exists_and_names_no_path_of_a_machine(name):
    text = "\n".join(cell.source for cell in read(name).cells)
    code = "\n".join(cell.source for cell in code_cells(name))
    for node in ast.walk(ast.parse(re.sub(r"^( *)[!%].*$", r"\1pass", code, flags=re.M))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert not any(str(one).startswith("keras_mixer.") for one in names)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "keras_mixer":
            assert node.attr in dir(keras_mixer)
    used = re.findall(r"keras-mixer (\w[\w-]*)(?: (\w[\w-]*))?", text)
    assert {command for command, _ in used} <= set(COMMANDS)
    assert {recipe for command, recipe in used if command == "train" and recipe} <= set(keras_mixer.RECIPES)
    for script in re.findall(r"!python (?:-m |\{CLONE\}/)((?:experiments|benchmarks)[./]\w+)", text):
        assert (ROOT / script.replace(".", "/")).with_suffix(".py").is_file()
    paths = re.findall(r"""(?<=[\s"'(=])(?:/|~/|[A-Z]:\\)[\w.][\w./\\-]*""", text)
    assert set(paths) <= {"/content/drive", "/content/drive/MyDrive/keras_mixer"}  # where Colab mounts Drive


def test_the_first_cell_asks_for_an_address_or_installs_the_clone(tmp_path, monkeypatch):
    from IPython.core.inputtransformer2 import TransformerManager

    code, commands = TransformerManager().transform_cell(code_cells("01_first_look")[0].source), []
    shell = SimpleNamespace(system=commands.append, run_line_magic=lambda *words: commands.append(" ".join(words)))
    numpy = SimpleNamespace(name="numpy", version="2.1.3")
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name="numpy": [numpy] * (name == "numpy"))
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keras_mixer").mkdir()  # a folder of that name is not a clone
    with pytest.raises(SystemExit, match=r"^Set SOURCE in this cell to the address of the repository, then run all"):
        exec(code, {"get_ipython": lambda: shell})
    (tmp_path / "any name" / "saved_models" / "mixer_digits").mkdir(parents=True)
    with pytest.raises(SystemExit, match="installation failed"):  # nothing was installed here
        exec(code, {"get_ipython": lambda: shell})
    assert commands == ['pip install -q "keras-mixer[{extras}] @ {CLONE.as_uri()}" -r kept.txt']  # IPython fills in
    assert Path("kept.txt").read_text() == "numpy==2.1.3\n"


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """A folder with files of random weights where downloads would be."""
    folder, rng = tmp_path_factory.mktemp("downloads"), np.random.default_rng(0)
    (folder / "keras_mixer").mkdir()
    published = folder / "keras_mixer" / "imagenet1k-Mixer-B_16.npz"
    keras_mixer.save_official(randomize(keras_mixer.MixerB16(), rng), published)
    sizes = vars(KNOWN_VARIANTS["tiny/4"])
    tiny = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), classes=50)
    keras_mixer.save_official(randomize(tiny, rng), folder / "tiny.npz")
    return folder


@pytest.fixture
def run(stand_ins, tmp_path):
    """Runs a notebook next to a clone, in a process of its own; gives back its text and its number of images.

    Keyword arguments replace values of the cell tagged `parameters`.
    """
    from nbclient import NotebookClient

    (tmp_path / "clone").symlink_to(ROOT, target_is_directory=True)

    def run(name, environment=None, **parameters):
        notebook = read(name)
        for cell in [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]:
            assert all(re.search(rf"\b{key}\b", cell.source) for key in parameters)
            cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
        notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT_SHELL))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "IPYTHONDIR": str(tmp_path / ".ipython"), "KERAS_HOME": str(stand_ins)}
        inherited = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "XLA_FLAGS")}
        resources = {"metadata": {"path": str(tmp_path)}}
        client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources)
        client.execute(env=inherited | own | (environment or {}))
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        text = "".join(output.get("text", "") for output in outputs)
        return text, sum("image/png" in output.get("data", {}) for output in outputs)

    return run


FIGURES = {"WEIGHTS": "imagenet1k", "NETWORKS": "mixer", "GROUPS": "4", "MEASURED": "S/32", "SIDES": "32 64"}
FIGURES |= {"TRAINING": "--recipe smoke --training-images 100 --steps 4 --points 2 --seeds 0", "SECONDS": "0.2"}
FIGURES |= {"PARTS": "--recipe smoke --fractions 0.1 --steps 10 --seeds 0"}


@pytest.mark.notebooks
@pytest.mark.parametrize(
    ("name", "parameters", "count", "words"),
    [
        ("00_quickstart", {}, 3, r"\n9[7-9]\.\d+% accuracy on 360 test images"),
        ("01_first_look", {}, 3, r"block_11   \(2, 14, 14, 768\)\n(?s:.*)largest difference \d\.\de-0[5-9],"),
        ("05_paper_figures", FIGURES, 9, ""),
    ],
)
def test_a_notebook_draws_its_figures(name, parameters, count, words, run):
    text, images = run(name, **parameters)
    assert images == count
    assert re.search(words, text), text


@pytest.mark.notebooks
def test_02_fine_tunes_on_four_devices_resumes_and_agrees_with_its_export(run, stand_ins, tmp_path):
    write_folder(tmp_path / "photos", images_per_class=20, classes=("cat", "dog"), parts=())
    text, images = run(
        "02_colab_tpu_finetune",
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        DATA="photos",
        WEIGHTS=str(stand_ins / "tiny.npz"),
        SETTINGS={"variant": "tiny/4", "image_size": 32, "steps": 12, "warmup_steps": 2, "steps_per_epoch": 4},
        BATCH={"global_batch_size": 16, "accumulation_steps": 2, "devices": "4"},
    )
    assert images == 3
    assert "4 x cpu" in text
    assert "DataParallel on 4 CPU, 4 images per device and 16 per step" in text
    assert re.search(r"Resuming after step [1-9]\d* of \d+", text)
    assert float(re.search(r"largest difference in probability: (\S+)", text)[1]) < 1e-5
    assert (tmp_path / "runs" / "photos" / "export/model.tflite").is_file()


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
