"""What a run remembers, what it survives, and who may write to its folder."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys

import keras
import pytest
from image_files import write_folder
from small_runs import SMALL, assert_same_weights, fit, stopped_at

from keras_mixer.training import fit as fitting
from keras_mixer.training.callbacks import RunCallbacks, RunStopped
from keras_mixer.training.devices import Devices
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import Run, read_metrics, read_results

QUICK = {"epochs": 3, "global_batch_size": 8, "warmup_steps": 2, "checkpoint_every_steps": 4}


@pytest.fixture
def options(tmp_path):
    return QUICK | {"data": str(write_folder(tmp_path / "photos", images_per_class=12))}


LOAD = """
import shutil, sys, types
shutil.disk_usage = lambda path: types.SimpleNamespace(free=0)
import keras_mixer
try:
    open(sys.argv[1] + "/new", "w")
except PermissionError:
    print("read-only")
print(keras_mixer.fit("digits", workdir=sys.argv[1], **{options!r}).metrics["accuracy"])
"""


@pytest.mark.backends
def test_a_run_resumes_wherever_it_is_from_what_it_remembers(tiny_mixer, options, tmp_path, monkeypatch):
    sizes = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    start = tiny_mixer(classes=2, classifier_activation=None, exact_gelu=True, pixel_range=(0, 1), **sizes)
    start.save(tmp_path / "start.keras")
    # Weights for 16 px widen the token-mixing MLPs of a model for 32 px.
    options |= {"weights": str(tmp_path / "start.keras"), "image_size": 32, "accumulation_steps": 2}
    options |= {"randaugment_num_ops": 1}
    whole = fit(tmp_path / "whole", **options)
    with stopped_at(5):
        fit(tmp_path / "stopped", **options)
    (tmp_path / "start.keras").unlink()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))  # the run remembers, not only the cache
    moved, photos = (tmp_path / name for name in ("moved", "images"))
    (tmp_path / "stopped").rename(moved)
    (tmp_path / "photos").rename(photos)
    options["data"] = f"{photos}/"

    file, said = moved / "metrics.csv", []
    assert len(read_metrics(file)) == 1
    file.write_bytes(file.read_bytes()[:-9])
    with monkeypatch.context() as patch:  # the last step is saved before the last evaluation
        patch.setattr(fitting, "evaluate_source", lambda *arguments: (_ for _ in ()).throw(MemoryError("too large")))
        with pytest.raises(MemoryError), pytest.warns(UserWarning, match=r"The last line of .*metrics\.csv is cut off"):
            fit(moved, said=said, **options)
    monkeypatch.setattr(keras.Model, "fit", lambda *arguments, **options: pytest.fail("it trains again"))
    resumed = fit(moved, said=said, **options)
    assert [line for line in said if "Resuming" in line] == [f"Resuming after step {step} of 9." for step in (5, 9)]
    assert not any("Before training" in line for line in said)
    assert all(one.model.get_layer("stem").pixel_range == (0, 1) for one in (resumed, whole))
    assert resumed.model.get_layer("mixer_block_0").exact_gelu
    assert resumed.metrics["start_accuracy"] == whole.metrics["start_accuracy"] is not None
    assert resumed.metrics["accuracy"] == whole.metrics["accuracy"]
    assert_same_weights(whole.model, resumed.model)

    assert resumed.history["epoch"] == [1, 2]
    with file.open(newline="") as opened:
        assert [row["epoch"] for row in csv.DictReader(opened)] == ["1", "2"]
    (moved / "results.json").unlink()  # it is not finished, and its classes have other names
    for part in ("train", "test"):
        (photos / part / "circle").rename(photos / part / "zebra")
    with pytest.raises(ValueError, match=r"started; missing or changed: test/circle/0.png, .* and 21 more"):
        fit(moved, **options)


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_finished_run_loads_on_a_full_and_read_only_disk(options, tmp_path):
    run = tmp_path / "run"
    fit(run, **options)
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    command = [sys.executable, "-c", LOAD.format(options=SMALL | options), run]
    if os.getuid() == 0:  # for whom modes of files count only without this capability
        command = [shutil.which("setpriv"), "--bounding-set=-dac_override", *command]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        for folder in folders:
            folder.chmod(0o755)
    lines = out.splitlines()
    assert lines[0] == "read-only"
    assert lines[-1] == str(read_results(run)["accuracy"])


HOLD = """
import sys, time
from keras_mixer.training.devices import Devices
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import Run
with Run(sys.argv[1], Recipe("any", "any"), Devices("one", 1)).opened():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_dead_one_makes_way(options, tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=rf"{folder} is in use by process {holder.pid} on {socket.gethostname()}\."):
            fit(folder, **options)
        assert not (folder / "config.json").exists()
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()
    (folder / ".writing-abc").mkdir()
    with Run(folder, Recipe("any", "any"), Devices("one", 1)).opened():
        assert not (folder / ".writing-abc").exists()
        other = Run(folder, Recipe("any", "any"), Devices("one", 1))  # in the same process
        with pytest.raises(OSError, match=f"in use by process {os.getpid()}"), other.opened():
            pass
    assert not folder.exists()  # nothing was trained


def test_ctrl_c_before_the_first_step_ends_stops_at_once(options, tmp_path, monkeypatch):
    def press(self, batch, logs=None, original=RunCallbacks.on_train_batch_begin):
        original(self, batch, logs)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunCallbacks, "on_train_batch_begin", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # some programs that run tests ignore it
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            fit(tmp_path / "run", **options)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(stopped.value, RunStopped)
