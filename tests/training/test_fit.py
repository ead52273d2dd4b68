import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from image_files import write_folder
from small_runs import SMALL, assert_same_weights, fit, quiet, stopped_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_mixer
from keras_mixer.data.batches import evaluation_batches, training_batches
from keras_mixer.data.sources import load_source
from keras_mixer.evaluation.accuracy import evaluate_source
from keras_mixer.inspect.plan import plan
from keras_mixer.layers import PatchEmbed
from keras_mixer.training.callbacks import TrainingDiverged
from keras_mixer.training.fit import fit_model, segments, start_model
from keras_mixer.training.inputs import load_recipe_source, own_data
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run import list_checkpoints, read_recipe

QUICK = {"epochs": 3, "global_batch_size": 256, "warmup_steps": 2, "checkpoint_every_steps": 4}  # 5 steps an epoch
LEARNING = QUICK | {"epochs": 12, "learning_rate": 1e-2, "randaugment_num_ops": 1}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A finished run of 12 epochs on digits, and how often it built a model."""
    folder, built, build = tmp_path_factory.mktemp("learned") / "run", [], PatchEmbed.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchEmbed, "build", lambda layer, shape: (built.append(layer), build(layer, shape))[1])
        return folder, fit(folder, **LEARNING), len(built)


@pytest.mark.backends
def test_a_run_learns_and_leaves_everything_behind(learned):
    folder, result, models_built = learned
    assert models_built == 2  # one to train and one to keep
    assert result.metrics["accuracy"] > 0.5
    assert (result.metrics["test_images"], result.metrics["start_accuracy"]) == (360, None)
    names = {"config.json", "checkpoints", "tensorboard", "metrics.csv", "model.keras", "results.json", "start.json"}
    assert {item.name for item in folder.iterdir()} == names | {"run.lock"}
    assert list(list_checkpoints(folder / "checkpoints")) == [56, 60]
    assert json.loads((folder / "results.json").read_text()) == result.metrics
    assert {"python", "keras", "keras-mixer"} <= set(result.metrics["versions"])
    assert result.model.class_names == tuple("0123456789")

    loaded, recipe = keras.saving.load_model(folder / "model.keras"), read_recipe(folder)
    assert recipe == resolve("digits", **(SMALL | LEARNING))
    again = evaluate_source(loaded, load_recipe_source(recipe), recipe)
    assert (again.top1, again.loss) == (result.metrics["accuracy"], result.metrics["loss"])


def test_a_finished_run_is_loaded_and_another_configuration_never_touches_it(learned, tmp_path):
    folder, first, _ = learned
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    second = fit(folder, **LEARNING)
    assert (second.metrics, second.history) == (first.metrics, first.history)
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 now.* To continue from its weights, add --weights"):
        fit(folder, seed=1, **LEARNING)
    unfinished = shutil.copytree(folder, tmp_path / "unfinished", ignore=shutil.ignore_patterns("results.json"))
    lost = shutil.copytree(folder, tmp_path / "lost", ignore=shutil.ignore_patterns("model.keras"))
    assert_same_weights(fit(lost, **LEARNING).model, first.model)
    renamed = dataclasses.replace(load_source("digits"), class_names=tuple("1234567890"))
    with pytest.raises(ValueError, match=r"classes of .* have changed since this run started"):
        fit_model(resolve("digits", **(SMALL | LEARNING)), workdir=unfinished, source=renamed, log=quiet)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_tensorboard_shows_the_metrics(learned):
    folder = learned[0] / "tensorboard"
    tags = {part: EventAccumulator(str(folder / part)).Reload().Tags() for part in ("train", "validation")}
    expected = {"loss", "accuracy", "learning_rate", "gradient_norm", "images_per_second"}
    assert expected <= {name.removeprefix("epoch_") for name in tags["train"]["tensors"]}
    assert {"epoch_loss", "epoch_accuracy"} <= set(tags["validation"]["tensors"])


@pytest.mark.backends
def test_a_run_starts_from_weights_of_another_image_size(learned):
    """The paper's widening gives the mean over tiles: images of 2 x 2 copies keep the answer of one."""
    (folder, result, _), source = learned, load_source("digits")
    for method, size in (("block_diagonal", 32), ("bilinear", 20)):
        options = SMALL | {"weights": str(folder), "image_size": size, "resolution_method": method}
        recipe = resolve("digits", **options)
        start = start_model(recipe, source, quiet)
        expected = keras_mixer.change_resolution(result.model, (size, size, 3), method)
        for mine, theirs in zip(start.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)
        assert plan(recipe).parameters == start.count_params()
        if method == "block_diagonal":
            batches = evaluation_batches(source.test, image_size=(16, 16), batch_size=360, crop="resize")
            ((images, labels),) = batches.as_numpy_iterator()
            tiled = np.tile(images.round().astype("uint8"), (1, 2, 2, 1)), labels
            accuracy = evaluate_source(start, own_data(recipe, {}, tiled, tiled)[1], recipe).top1
            assert abs(accuracy - result.metrics["accuracy"]) < 0.005


@pytest.mark.backends
def test_only_the_head_learns_while_the_rest_is_frozen_and_then_all_of_it(learned, tmp_path):
    options = QUICK | {"weights": str(learned[0] / "model.keras"), "warmup_steps": 0, "epochs": 2, "freeze_epochs": 1}
    before = learned[1].model.get_weights()

    def changed(weights):
        return [bool((one != other).any()) for one, other in zip(before, weights, strict=True)]

    whole = fit(tmp_path / "whole", **options)
    assert whole.metrics["start_accuracy"] == learned[1].metrics["accuracy"]
    assert all(changed(whole.model.get_weights()))
    assert len(whole.model.trainable_weights) == len(before)
    for stop_at in (3, 5):  # while it is frozen, and at the end of that
        with stopped_at(stop_at):
            fit(tmp_path / "stopped", **options)
    with np.load(list_checkpoints(tmp_path / "stopped" / "checkpoints")[5]) as archive:
        weights = [archive[f"arr_{i}"] for i in range(len(before))]
    assert changed(weights) == [False] * (len(before) - 2) + [True, True]
    resumed = fit(tmp_path / "stopped", **options)
    assert_same_weights(whole.model, resumed.model)
    assert resumed.history["resumed"] == [1, 0]  # the epoch whose first steps its figures leave out
    never_better = options | {"epochs": 5, "freeze_epochs": 2, "patience": 1, "learning_rate": 1e-9}
    assert len(fit(tmp_path / "patient", **never_better).history["loss"]) == 3  # it counts when all of it learns


@pytest.mark.backends
def test_sgd_in_bfloat16_with_the_sigmoid_loss_and_a_head_bias_that_nothing_changes(tmp_path):
    options = {"steps": 7, "steps_per_epoch": 3, "learning_rate": 1e-12, "weight_decay": 0.0, "optimizer": "sgd"}
    options |= {"loss": "sigmoid", "label_smoothing": 0.0, "head_bias": -2.0, "precision": "mixed_bfloat16"}
    with pytest.warns(UserWarning, match="All 360 images have the same output: the model is untrained"):
        result = fit(tmp_path / "run", **(QUICK | options))
    assert result.history["step"] == [3, 6, 7]
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.dtype_policy.name for layer in result.model.layers} == {"float32"}
    assert result.model.get_layer("probabilities").activation is keras.activations.sigmoid
    np.testing.assert_allclose(result.model.get_layer("head").get_weights()[1], -2, atol=1e-6)
    assert result.history["val_loss"][-1] == pytest.approx(10 * np.log1p(np.exp(-2)) + 2, rel=1e-4)
    assert result.metrics["accuracy"] == pytest.approx(0.1, abs=0.01)  # that of class 0
    assert result.metrics["top5"] == pytest.approx(0.5, abs=0.01)


KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from pathlib import Path
import keras_mixer
from keras_mixer.training.fit import fit
from keras_mixer.training.run import list_checkpoints
checkpoints = Path(sys.argv[1], "killed", "checkpoints")
random.seed(0)

def start(name):
    child = os.fork()  # nothing has been computed in this process, so it can be copied; it saves imports
    if child == 0:
        fit("digits", workdir=Path(sys.argv[1], name), log=lambda line: print(line, flush=True), **{options!r})
        os._exit(0)
    return child

os.waitpid(start("whole"), 0)
for attempt in range(5 + 1):
    child = start("killed")
    wanted = random.choice([1, 2, 3]) + max(list_checkpoints(checkpoints), default=0)
    while attempt < 5 and max(list_checkpoints(checkpoints), default=0) < wanted:
        time.sleep(0.005)
    if attempt < 5:
        time.sleep(random.random() / 20)  # and then at any point of a step, writing included
        os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.backends
def test_a_run_killed_five_times_ends_with_the_very_same_weights(tmp_path):
    options = QUICK | SMALL | {"checkpoint_every_steps": 1, "epochs": 5, "ema_momentum": 0.9}
    options |= {"drop_path_rate": 0.2, "mixup_alpha": 0.2}
    code = KILLED_AGAIN_AND_AGAIN.format(options=options)
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True).stdout
    statuses = [int(line) for line in out.splitlines() if line.isdigit()]
    assert statuses == [signal.SIGKILL] * 5 + [0]
    assert out.count("Resuming after step") == 5
    whole, killed = (keras.saving.load_model(tmp_path / name / "model.keras") for name in ("whole", "killed"))
    assert_same_weights(whole, killed)
    assert not list((tmp_path / "killed").rglob(".writing-*"))
    rows = (tmp_path / "killed" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "2", "3", "4"]


@pytest.mark.backends
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    options = QUICK | {"optimizer": "sgd", "learning_rate": 1e6, "clip_norm": None, "warmup_steps": 4}
    options["checkpoint_every_steps"] = 1
    with pytest.raises(TrainingDiverged, match=r"(loss|gradient) is (nan|inf) by step \d+") as error:
        fit(tmp_path, **options)
    step = int(re.search(r"by step (\d+)", str(error.value))[1])
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert 0 < max(kept) < step
    with np.load(kept[max(kept)]) as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files)
    assert not (tmp_path / "results.json").exists()


def small_network():
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(16, "relu")(x))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.Dropout(0.1)(x)), name="small_network")


@pytest.mark.backends
def test_a_given_model_trains_on_given_data(tmp_path):
    source = load_source("digits")
    source = dataclasses.replace(source, train=source.train.part(np.arange(source.train.size) < 600))
    options = {"epochs": 2, "global_batch_size": 200, "warmup_steps": 2, "devices": "1", "randaugment_num_ops": 0}
    recipe = resolve("digits", **options, patch_size=5)  # the architecture does not matter
    start = small_network()
    before = start.get_weights()
    result = fit_model(recipe, workdir=tmp_path / "run", source=source, model=start, log=quiet)
    assert all((mine != theirs).any() for mine, theirs in zip(start.get_weights(), before, strict=True))
    assert_same_weights(start, result.model)  # the seed of dropout included


def test_only_a_mixer_trains_in_bfloat16_or_on_replicas(tmp_path):
    options = {"source": load_source("digits"), "model": small_network(), "log": quiet}
    with pytest.raises(ValueError, match=r"Expected a Mixer, .* got 'small_network' with precision='mixed_bfloat16'"):
        fit_model(resolve("digits", precision="mixed_bfloat16"), workdir=tmp_path / "a", **options)
    with pytest.raises(ValueError, match=r"Expected a Mixer, .* got 'small_network' .* on MirroredStrategy on 2 CPU"):
        fit_model(resolve("digits", devices="2"), workdir=tmp_path / "b", **options)


def test_the_recipe_for_beginners_suits_a_few_images_and_a_damaged_one_is_named_or_left_out(tmp_path):
    folder, said = write_folder(tmp_path / "images", images_per_class=25), []
    damaged = sorted((folder / "train" / "circle").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:700])
    options = SMALL | {"data": str(folder), "epochs": 2, "log": said.append, "workdir": tmp_path / "run"}
    with pytest.raises(ValueError, match=rf"^An image cannot be used: .*{damaged.name}: .* with --skip-corrupt\.$"):
        keras_mixer.fit("scratch_small", seed=3, **options)  # when training reaches it
    result = keras_mixer.fit("scratch_small", skip_corrupt=True, **options)  # the folder of the run was still free
    assert f"Left out of {folder}: damaged: 1 (train/circle/{damaged.name})." in said
    assert result.history["step"] == [6, 12]
    assert result.model.class_names == ("circle", "stripe")
    smaller = "49 training images are few for this recipe: global_batch_size 8 instead of 512, warmup_steps 1"
    assert smaller in "\n".join(said)
    assert (result.metrics["global_batch_size"], result.metrics["warmup_steps"]) == (8, 1)


def test_problems_are_found_before_anything_is_written(tmp_path, monkeypatch):
    def refused(match, recipe="digits", error=ValueError, workdir=tmp_path / "run", **options):
        with pytest.raises(error, match=match):
            keras_mixer.fit(recipe, workdir=workdir, log=quiet, **options)
        assert not (tmp_path / "run").exists()

    refused("valid ones are digits", "nothing")
    refused("global_batch_size=2000 is more than the 1437 training images", global_batch_size=2000)
    refused("30 px is not a multiple of the patch", image_size=30)
    refused("nothing.npz", error=(ValueError, OSError), weights="nothing.npz")
    refused("warmup_steps=9 leaves nothing of a run of 9 steps", steps=9, warmup_steps=9)
    refused("class_weights has 3 values, but the data have 10 classes", class_weights=(1.0, 2.0, 3.0))
    refused("digits has only train, test and label, got train_split='train", train_split="train[:50%]")
    refused("'train' would be trained and tested on", test_split="train")
    (tmp_path / "file").write_text("do not lose me")
    refused(r"contains other files \(file\)", workdir=tmp_path)
    refused("cannot be written", error=OSError, workdir=tmp_path / "file" / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 10))
    refused(r"needs about .* MB .* has 0 MB free", error=OSError)


def test_balanced_class_weights_make_up_for_rare_classes():
    source = load_source("digits")
    labels = np.array([int(element["label"]) for element in source.train.elements.as_numpy_iterator()])
    rare = dataclasses.replace(source, train=source.train.part((labels != 3) | (np.arange(len(labels)) % 5 == 0)))
    recipe = resolve("digits", class_weights="balanced", mixup_alpha=0.0, global_batch_size=rare.train.size)
    ((_, one_hot, weights),) = training_batches(rare.train, recipe).take(1)
    per_class = one_hot.numpy().T @ weights.numpy()
    np.testing.assert_allclose(per_class, rare.train.size / 10, rtol=1e-5)


def test_the_parts_of_a_run_are_whole_epochs_where_they_can_be():
    def planned(step=0, **options):
        recipe = resolve("digits", global_batch_size=10, **({"epochs": 4, "warmup_steps": 0} | options))
        return list(segments(recipe.for_images(59), step))

    assert planned() == [(0, 0, 4, 5, False)]
    assert planned(7) == [(7, 1, 2, 3, False), (10, 2, 4, 5, False)]
    assert planned(steps=12) == [(0, 0, 2, 5, False), (10, 2, 3, 2, False)]
    assert planned(freeze_epochs=1) == [(0, 0, 1, 5, True), (5, 1, 4, 5, False)]
    assert planned(3, freeze_epochs=2) == [(3, 0, 1, 2, True), (5, 1, 2, 5, True), (10, 2, 4, 5, False)]
    assert planned(freeze_epochs="all", steps=7) == [(0, 0, 1, 5, True), (5, 1, 2, 2, True)]
    assert planned(20) == []
    assert planned(steps_per_epoch=4, epochs=2) == [(0, 0, 2, 4, False)]
