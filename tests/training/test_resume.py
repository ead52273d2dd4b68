"""What a run remembers, what it survives, and who may write to its folder."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_files import write_folder
from small_runs import SMALL, assert_same_weights, stopped_at
from tfds_files import write_own_tfds

import keras_mixer
from keras_mixer.training import fit as fitting
from keras_mixer.training.callbacks import Checkpoints, RunStopped
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import Run, RunInUse, list_checkpoints, read_metrics, read_results

QUICK = SMALL | {"epochs": 3, "global_batch_size": 8, "warmup_steps": 2, "checkpoint_every_steps": 4}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of 24 training images, so 3 steps an epoch, with a run that finished and one stopped at step 5."""
    folder = tmp_path_factory.mktemp("shared")
    write_folder(folder / "photos", images_per_class=12)
    fit(folder / "whole", folder / "photos")
    with stopped_at(5):
        fit(folder / "stopped", folder / "photos")
    return folder


@pytest.fixture
def photos(shared, tmp_path):
    return shutil.copytree(shared / "photos", tmp_path / "photos")


@pytest.fixture
def stopped(shared, photos, tmp_path):
    run = shutil.copytree(shared / "stopped", tmp_path / "stopped")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": str(photos)}))
    return run


def fit(workdir, data, said=None, **options):
    return keras_mixer.fit(
        "digits", workdir=workdir, log=([] if said is None else said).append, data=str(data), **(QUICK | options)
    )


@pytest.mark.backends
def test_a_run_resumes_without_its_weights_and_works_nothing_out_again(tiny_mixer, photos, tmp_path, monkeypatch):
    sizes = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    start = tiny_mixer(classes=2, classifier_activation=None, exact_gelu=True, pixel_range=(0, 1), **sizes)
    start.save(tmp_path / "start.keras")
    # Weights for 16 px widen the token-mixing MLPs of a model for 32 px.
    options = {"weights": str(tmp_path / "start.keras"), "image_size": 32, "accumulation_steps": 2}
    options |= {"randaugment_num_ops": 1}
    whole_run = fit(tmp_path / "whole", photos, **options)
    with stopped_at(5):
        fit(tmp_path / "stopped", photos, **options)
    (tmp_path / "start.keras").unlink()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))  # the run remembers, not only the cache
    said = []
    resumed = fit(tmp_path / "stopped", photos, said, **options)
    assert "Resuming after step 5 of 9." in said
    assert not any("Before training" in line for line in said)
    assert resumed.model.pixel_range == whole_run.model.pixel_range == (0, 1)
    assert resumed.model.get_layer("mixer_block_0").exact_gelu
    assert resumed.metrics["start_accuracy"] == whole_run.metrics["start_accuracy"] is not None
    assert_same_weights(whole_run.model, resumed.model)


def test_a_damaged_file_is_named_when_training_reaches_it_and_may_be_left_out(photos, tmp_path):
    file = sorted((photos / "train" / "circle").iterdir())[1]
    file.write_bytes(file.read_bytes()[:700])
    for seed in (3, 0):  # the folder stays free for another configuration
        with pytest.raises(ValueError, match=rf"^An image cannot be used: .*{file.name}: .* with --skip-corrupt\.$"):
            fit(tmp_path / "run", photos, seed=seed)
    said = []
    assert fit(tmp_path / "run", photos, said, skip_corrupt=True).metrics["test_images"] == 24
    assert f"Left out of {photos}: damaged images: 1 (train/circle/{file.name})." in said


def test_a_start_that_fails_leaves_the_folder_free(photos, tmp_path):
    for wrong in ({"global_batch_size": 999}, {"weights": "nothing.npz"}, {"image_size": 30}, {"data": "nowhere/"}):
        with pytest.raises((ValueError, OSError)):
            fit(tmp_path / "run", **({"data": photos} | wrong))
        assert not (tmp_path / "run").exists()


def test_the_last_step_is_saved_before_the_last_evaluation(photos, tmp_path, monkeypatch):
    options = {"checkpoint_every_steps": 1000, "ema_momentum": 0.5}
    whole_run = fit(tmp_path / "whole", photos, **options)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "evaluate_source", lambda *arguments: (_ for _ in ()).throw(MemoryError("too large")))
        with pytest.raises(MemoryError):
            fit(tmp_path / "run", photos, **options)
    monkeypatch.setattr(keras.Model, "fit", lambda *arguments, **options: pytest.fail("it trains again"))
    said = []
    result = fit(tmp_path / "run", photos, said, **options)
    assert "Resuming after step 9 of 9." in said
    assert result.metrics["accuracy"] == whole_run.metrics["accuracy"]
    assert_same_weights(whole_run.model, result.model)


def test_renamed_labels_of_a_prepared_data_set_do_not_resume(tmp_path):
    for name in (["dark", "light"], ["light", "dark"]):
        examples = [{"image": np.full((8, 8, 3), 10 * i, np.uint8), "label": i % 2} for i in range(16)]
        features = {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(names=name)}
        write_own_tfds(tmp_path / name[0], "own_set", features, {"train": examples, "test": examples})
    options = {"data": "own_set", "workdir": tmp_path / "run", "log": [].append, **QUICK}
    with stopped_at(2):
        keras_mixer.fit("digits", data_dir=str(tmp_path / "dark"), **options)
    shutil.rmtree(tmp_path / "dark")
    shutil.move(tmp_path / "light", tmp_path / "dark")
    with pytest.raises(ValueError, match=r"classes of .* have changed since this run started: \('dark', 'light'\) to"):
        keras_mixer.fit("digits", data_dir=str(tmp_path / "dark"), **options)


def test_a_changed_set_of_classes_does_not_resume(photos, stopped):
    for part in ("train", "test"):
        (photos / part / "circle").rename(photos / part / "zebra")
    with pytest.raises(ValueError, match=r"have changed since this run started: gone: 24 .*, new: 24 \(train/zebra"):
        fit(stopped, photos)


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


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
def test_a_finished_run_loads_on_a_full_and_read_only_disk(shared, photos, tmp_path):
    run = shutil.copytree(shared / "whole", tmp_path / "run")
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    command = [sys.executable, "-c", LOAD.format(options=QUICK | {"data": str(photos)}), run]
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


def test_a_last_line_of_the_metrics_that_is_cut_off_is_repaired(photos, stopped):
    file = stopped / "metrics.csv"
    assert len(read_metrics(file)["loss"]) == 1
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"The last line of .*metrics\.csv is cut off"):
        result = fit(stopped, photos)
    assert result.history["epoch"] == [1, 2]
    with file.open(newline="") as opened:
        assert [row["epoch"] for row in csv.DictReader(opened)] == ["1", "2"]
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + "0,nonsense\n" + lines[2])
    with pytest.raises(ValueError, match=r"Line 2 of .*metrics\.csv is damaged: '0,nonsense'"):
        fit(stopped, photos)


HOLD = """
import sys, time
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import Run
with Run(sys.argv[1], Recipe("any", "any")).opened():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_and_a_dead_one_makes_way(photos, tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunInUse, match=rf"{folder} is in use by process {holder.pid} on {socket.gethostname()}\."):
            fit(folder, photos)
        assert not (folder / "config.json").exists()
        assert holder.poll() is None
    finally:
        holder.kill()
        holder.communicate()
    with Run(folder, Recipe("any", "any")).opened():
        assert (folder / "run.lock.json").exists()


def test_one_process_holds_a_run_once(tmp_path):
    for _ in range(2):
        with Run(tmp_path / "run", Recipe("any", "any")).opened():
            other = Run(tmp_path / "run", Recipe("any", "any"))
            with pytest.raises(RunInUse, match=f"in use by process {os.getpid()}"), other.opened():
                pass
        assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_early_does_not_block_its_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".writing-abc").mkdir()
    (folder / "run.lock").write_text("")
    with Run(folder, Recipe("any", "any")).opened():
        assert not (folder / ".writing-abc").exists()


@pytest.mark.backends
def test_a_failure_of_one_process_ends_all_with_its_message(tmp_path):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("several processes train on JAX")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not lose me")
    for number, folders, failing in ((0, ("full", "new"), 0), (1, ("run", "full"), 1)):
        port = 20_000 + (os.getpid() + number) % 20_000
        train = [sys.executable, "-m", "keras_mixer", "train", "smoke", "--data-shards", "2"]
        train += ["--job-addresses", f"127.0.0.1:{port}", "--num-processes", "2"]
        started = [
            subprocess.Popen(
                [*train, "--process-id", str(process), "--workdir", str(tmp_path / folder)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for process, folder in enumerate(folders)
        ]
        outputs = [process.communicate(timeout=240)[0] for process in started]
        assert [process.returncode for process in started] == [2, 2], "\n".join(outputs)
        assert "error: The run directory" in outputs[failing]
        assert f"error: Process {failing} of 2 failed: ValueError: The run directory" in outputs[1 - failing]
        assert "contains other files (thesis.txt)" in outputs[1 - failing]
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_a_damaged_start_is_named_and_a_moved_run_resumes(shared, photos, stopped, tmp_path):
    moved = stopped.rename(tmp_path / "moved")
    photos.rename(tmp_path / "pictures")
    start = (moved / "start.json").read_text()
    (moved / "start.json").write_text("{")
    with pytest.raises(ValueError, match=r"start\.json is damaged .* Restore it"):
        fit(moved, tmp_path / "pictures")
    (moved / "start.json").write_text(start)
    resumed = fit(moved, f"{tmp_path}/pictures/")
    assert_same_weights(keras.saving.load_model(shared / "whole" / "model.keras"), resumed.model)
    with pytest.raises(ValueError, match=r"epochs: 3 there, 4 now.* To continue from its weights, .*moved"):
        fit(moved, tmp_path / "pictures", epochs=4)


def test_ctrl_c_before_the_first_step_ends_stops_at_once(photos, tmp_path, monkeypatch):
    def press(self, batch, logs=None, original=Checkpoints.on_train_batch_begin):
        original(self, batch, logs)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "on_train_batch_begin", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # some programs that run tests ignore it
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            fit(tmp_path / "run", photos)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not isinstance(stopped.value, RunStopped)
