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
import tensorflow as tf
from image_files import encode, write_folder
from small_runs import SMALL, assert_same_weights, quiet, stopped_at
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.batches import evaluation_batches, training_batches
from keras_mixer.data.sources import load_source
from keras_mixer.layers import PatchEmbed
from keras_mixer.training import fit as loop
from keras_mixer.training.callbacks import TrainingDiverged, TrainingImages
from keras_mixer.training.fit import fit_model, segments, start_model
from keras_mixer.training.inputs import evaluate_source, load_recipe_source
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run import Run, list_checkpoints, read_recipe

QUICK = {"epochs": 3, "global_batch_size": 256, "warmup_steps": 2, "checkpoint_every_steps": 4}  # 5 steps an epoch


LEARNING = {"epochs": 12, "learning_rate": 1e-2, "randaugment_num_ops": 1}


def run(workdir, **overrides):
    return keras_mixer.fit("digits", workdir=workdir, **(QUICK | SMALL | {"log": quiet} | overrides))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A finished run of 12 epochs on digits, and how often it built a model. Tests that write take a copy."""
    folder, built, build = tmp_path_factory.mktemp("learned") / "run", [], PatchEmbed.build
    profile = (2, 3) if keras.backend.backend() == "tensorflow" else None  # Keras profiles JAX from Python 3.12 on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TrainingImages", TrainingImages)
        patch.setattr(PatchEmbed, "build", lambda layer, shape: (built.append(layer), build(layer, shape))[1])
        return folder, run(folder, profile_steps=profile, **LEARNING), len(built)


@pytest.mark.backends
def test_a_run_learns_and_leaves_everything_behind(learned):
    folder, result, models_built = learned
    assert models_built == 2  # one to train and one to keep
    assert result.metrics["accuracy"] > 0.5
    assert result.metrics["test_images"] == 360
    assert result.metrics["start_accuracy"] is None
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert len(result.history["val_accuracy"]) == 12
    names = {item.name for item in folder.iterdir()}
    assert names == {
        *("config.json", "checkpoints", "tensorboard", "metrics.csv", "model.keras", "results.json", "start.json"),
        "run.lock",
    }
    assert json.loads((folder / "results.json").read_text()) == result.metrics
    assert {"python", "keras", "keras-mixer"} <= set(result.metrics["versions"])
    assert result.model.class_names == tuple("0123456789")

    loaded = keras.saving.load_model(folder / "model.keras")
    recipe = read_recipe(folder)
    again = evaluate_source(loaded, load_recipe_source(recipe), recipe)
    assert (again.top1, again.loss) == (result.metrics["accuracy"], result.metrics["loss"])


def test_a_finished_run_is_loaded_and_another_configuration_never_touches_it(learned):
    folder, first, _ = learned
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    second = run(folder, **LEARNING)
    assert second.metrics == first.metrics
    assert second.history == first.history
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 now"):
        run(folder, seed=1, **LEARNING)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.backends
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(learned, tmp_path):
    folder = shutil.copytree(learned[0], tmp_path / "run")
    checkpoints = list_checkpoints(folder / "checkpoints")
    assert list(checkpoints) == [56, 60]
    checkpoints[60].write_bytes(checkpoints[60].read_bytes()[:5000])
    (folder / "results.json").unlink()
    said = []
    again = keras_mixer.fit("digits", workdir=folder, log=said.append, **(QUICK | SMALL | LEARNING))
    assert any("damaged" in line for line in said)
    assert any("Resuming after step 56 of 60" in line for line in said)
    assert_same_weights(learned[1].model, again.model)


def test_tensorboard_shows_scalars_and_pictures(learned):
    folder = learned[0] / "tensorboard"
    found = {item.name: EventAccumulator(str(item)).Reload() for item in folder.iterdir()}
    scalars = {name: values.Tags()["tensors"] for name, values in found.items()}
    expected = {"loss", "accuracy", "learning_rate", "gradient_norm", "images_per_second"}
    assert expected <= {name.removeprefix("epoch_") for name in scalars["train"]}
    assert {"epoch_loss", "epoch_accuracy"} <= set(scalars["validation"])
    pictures = found["pictures"].Tags()["tensors"]
    assert pictures == ["training images, augmented"]
    (image,) = found["pictures"].Tensors("training images, augmented")
    width, height, png = image.tensor_proto.string_val
    assert tf.io.decode_png(png).shape == (int(height), int(width), 3) == (6 * 16, 6 * 16, 3)
    assert list(folder.rglob("*.xplane.pb"))


@pytest.mark.backends
def test_sgd_in_bfloat16_with_the_sigmoid_loss_and_a_head_bias_that_nothing_changes(tmp_path, capsys):
    options = {"steps": 7, "steps_per_epoch": 3, "learning_rate": 1e-12, "weight_decay": 0.0, "optimizer": "sgd"}
    options |= {"loss": "sigmoid", "label_smoothing": 0.0, "head_bias": -2.0, "precision": "mixed_bfloat16"}
    said = []
    result = run(tmp_path / "run", log=said.append, **options)
    assert result.history["step"] == [3, 6, 7]
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.dtype_policy.name for layer in result.model.layers} == {"float32"}
    assert result.model.get_layer("probabilities").activation is keras.activations.sigmoid
    np.testing.assert_allclose(result.model.get_layer("head").get_weights()[1], -2, atol=1e-6)
    assert result.history["val_loss"][-1] == pytest.approx(10 * np.log1p(np.exp(-2)) + 2, rel=1e-4)
    untrained = "All 360 images have the same output: the model is untrained."
    assert said[-1] == untrained
    assert result.metrics["accuracy"] == pytest.approx(0.1, abs=0.01)  # that of class 0
    assert result.metrics["top5"] == pytest.approx(0.5, abs=0.01)
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert untrained in capsys.readouterr().out.splitlines()
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["constant"] is True


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(ValueError, match=r"other files \(thesis.txt\)"):
        run(tmp_path)


@pytest.mark.backends
def test_a_stopped_run_resumes_to_the_very_same_weights(tmp_path):
    teacher = tmp_path / "teacher.keras"
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(teacher)
    noise = {"mixup_alpha": 0.2, "drop_path_rate": 0.2, "dropout_rate": 0.1, "ema_momentum": 0.9, "sam_rho": 0.1}
    noise["teacher"] = str(teacher)
    handler = signal.getsignal(signal.SIGINT)
    whole = run(tmp_path / "whole", **noise)
    for stop_at in (5, 7):  # at the end of an epoch, and within one
        with stopped_at(stop_at):
            run(tmp_path / "stopped", **noise)
        assert max(list_checkpoints(tmp_path / "stopped" / "checkpoints")) == stop_at
    original = teacher.read_bytes()
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(teacher)
    with pytest.raises(ValueError, match="has changed since this run started"):
        run(tmp_path / "stopped", **noise)
    teacher.write_bytes(original)
    resumed = run(tmp_path / "stopped", **noise)
    assert_same_weights(whole.model, resumed.model)
    assert resumed.metrics["accuracy"] == whole.metrics["accuracy"]
    assert len(resumed.history["loss"]) == 3
    assert signal.getsignal(signal.SIGINT) is handler


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
    options = QUICK | SMALL | {"checkpoint_every_steps": 1, "epochs": 5, "randaugment_num_ops": 0, "ema_momentum": 0.9}
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
    with pytest.raises(TrainingDiverged, match=r"(loss|gradient) is (nan|inf) by step \d+") as error:
        run(tmp_path, optimizer="sgd", learning_rate=1e6, clip_norm=None, checkpoint_every_steps=1, warmup_steps=4)
    step = int(re.search(r"by step (\d+)", str(error.value))[1])
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert 0 < max(kept) < step
    with np.load(kept[max(kept)]) as archive:
        assert all(np.isfinite(archive[name]).all() for name in archive.files)
    assert not (tmp_path / "results.json").exists()


def test_class_weights_must_fit_the_classes(tmp_path):
    with pytest.raises(ValueError, match="class_weights has 3 values, but the data have 10 classes"):
        run(tmp_path, class_weights=(1.0, 2.0, 3.0))


def test_balanced_class_weights_make_up_for_rare_classes():
    source = load_source("digits")
    labels = np.array([int(element["label"]) for element in source.train.elements.as_numpy_iterator()])
    rare = dataclasses.replace(source, train=source.train.part((labels != 3) | (np.arange(len(labels)) % 5 == 0)))
    recipe = resolve("digits", class_weights="balanced", mixup_alpha=0.0, global_batch_size=rare.train.size)
    ((_, one_hot, weights),) = training_batches(rare.train, recipe).take(1)
    per_class = one_hot.numpy().T @ weights.numpy()
    np.testing.assert_allclose(per_class, rare.train.size / 10, rtol=1e-5)


def small_network():
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(16, "relu")(x))
    return keras.Model(image, keras.layers.Dense(10)(keras.layers.Dropout(0.1)(x)), name="small_network")


@pytest.mark.backends
def test_a_given_model_on_given_data_trains_and_resumes(tmp_path, tiny_mixer):
    source = load_source("digits")
    source = dataclasses.replace(source, train=source.train.part(np.arange(source.train.size) < 600))
    options = {"epochs": 3, "global_batch_size": 200, "warmup_steps": 2, "checkpoint_every_steps": 2, "devices": "1"}
    options["randaugment_num_ops"] = 0
    recipe = resolve("digits", **options, patch_size=5)  # the architecture of a recipe does not matter

    def train(folder, model):
        return fit_model(recipe, workdir=tmp_path / folder, source=source, model=model, log=quiet)

    for start in (tiny_mixer(num_blocks=1, classifier_activation=None), small_network()):
        weights = start.get_weights()
        whole = train(start.name, start)
        assert len(whole.history["val_accuracy"]) == 3
        assert whole.metrics["start_accuracy"] is None
        assert_same_weights(start, whole.model)
        assert any((mine != before).any() for mine, before in zip(start.get_weights(), weights, strict=True))
        start.set_weights(weights)
        with stopped_at(5):
            train(f"stopped {start.name}", start)
        start.set_weights([weight * 0 for weight in weights])  # a resumed run takes those of its checkpoint
        resumed = train(f"stopped {start.name}", start)
        assert_same_weights(whole.model, resumed.model)
        assert resumed.metrics["accuracy"] == whole.metrics["accuracy"]
        assert train(f"stopped {start.name}", start).metrics == resumed.metrics  # it is loaded


def test_only_a_mixer_trains_in_bfloat16_or_on_replicas(tmp_path):
    options = {"source": load_source("digits"), "model": small_network(), "log": quiet}
    with pytest.raises(ValueError, match=r"Expected a Mixer, .* got 'small_network' with precision='mixed_bfloat16'"):
        fit_model(resolve("digits", precision="mixed_bfloat16"), workdir=tmp_path / "a", **options)
    with pytest.raises(ValueError, match=r"Expected a Mixer, .* got 'small_network' .* on MirroredStrategy on 2 CPU"):
        fit_model(resolve("digits", devices="2"), workdir=tmp_path / "b", **options)


def test_an_image_folder_trains_and_broken_images_stop_it_unless_left_out(tmp_path):
    folder, said = write_folder(tmp_path / "images", images_per_class=16), []
    (folder / "train" / "circle" / "bad.jpg").write_bytes(b"no image")
    options = {"data": str(folder), "global_batch_size": 16, "epochs": 15, "learning_rate": 1e-2, "log": said.append}
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        run(tmp_path / "run", **options)
    result = run(tmp_path / "run", skip_corrupt=True, **options)
    assert f"Left out of {folder}: damaged images: 1 (train/circle/bad.jpg)." in said
    assert result.model.class_names == ("circle", "stripe")
    assert result.metrics["accuracy"] == 1.0


def test_problems_are_found_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="more than the 1437 training images"):
        run(tmp_path / "a", global_batch_size=2000)
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        run(tmp_path / "b", image_size=18)
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="valid ones are digits"):
        keras_mixer.fit("nothing", workdir=tmp_path / "c")


def test_a_place_that_cannot_be_written_or_is_too_small_is_found_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        run(tmp_path / "file" / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 10))
    with pytest.raises(OSError, match=r"needs about .* MB .* has 0 MB free"):
        run(tmp_path / "full")
    assert not (tmp_path / "full").exists()


@pytest.mark.parametrize(("method", "size"), [("block_diagonal", 32), ("bilinear", 20)])
@pytest.mark.backends
def test_a_run_starts_from_weights_made_for_another_image_size(learned, method, size):
    options = SMALL | {"weights": str(learned[0]), "image_size": size, "resolution_method": method}
    start = start_model(resolve("digits", **options), load_source("digits"), quiet)
    assert start.input_shape == (None, size, size, 3)
    expected = keras_mixer.change_resolution(learned[1].model, (size, size, 3), method)
    for mine, theirs in zip(start.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_fine_tuning_at_twice_the_size_starts_at_the_accuracy_of_the_small_model(learned, tmp_path):
    """The paper's widening gives the mean over tiles: pictures of 2 x 2 copies keep the answer of one."""
    source = load_source("digits")
    for part, split in {"train": source.train, "test": source.test}.items():
        batches = evaluation_batches(split, image_size=(16, 16), batch_size=1, crop="resize")
        for i, (images, labels) in enumerate(batches.as_numpy_iterator()):
            folder = tmp_path / "tiled" / part / str(labels[0])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").write_bytes(encode(np.tile(images[0], (2, 2, 1)), "PNG"))
    options = {"data": str(tmp_path / "tiled"), "image_size": 32, "weights": str(learned[0] / "model.keras")}
    large = run(tmp_path / "large", steps=1, warmup_steps=0, **options)
    assert abs(large.metrics["start_accuracy"] - learned[1].metrics["accuracy"]) < 0.005
    assert keras.saving.load_model(tmp_path / "large" / "model.keras").input_shape == (None, 32, 32, 3)


def test_a_recipe_comes_back_from_its_run_directory(tmp_path):
    recipe = dataclasses.replace(resolve("digits"), image_size=(16, 24))
    Run(tmp_path, recipe).begin(load_source("digits"), {}, parameters=1, step=0)
    assert read_recipe(tmp_path) == recipe


def test_the_parts_of_a_run_are_whole_epochs_where_they_can_be():
    def planned(step=0, **options):
        recipe = resolve("digits", global_batch_size=10, **({"epochs": 4, "warmup_steps": 0} | options))
        return list(segments(recipe, 59, step))

    assert planned() == [(0, 0, 4, 5, False)]
    assert planned(7) == [(7, 1, 2, 3, False), (10, 2, 4, 5, False)]
    assert planned(steps=12) == [(0, 0, 2, 5, False), (10, 2, 3, 2, False)]
    assert planned(freeze_epochs=1) == [(0, 0, 1, 5, True), (5, 1, 4, 5, False)]
    assert planned(3, freeze_epochs=2) == [(3, 0, 1, 2, True), (5, 1, 2, 5, True), (10, 2, 4, 5, False)]
    assert planned(freeze_epochs="all", steps=7) == [(0, 0, 1, 5, True), (5, 1, 2, 2, True)]
    assert planned(20) == []
    assert planned(steps_per_epoch=4, epochs=2) == [(0, 0, 2, 4, False)]


@pytest.mark.backends
def test_only_the_head_learns_while_the_rest_is_frozen_and_then_all_of_it(learned, tmp_path):
    options = {"weights": str(learned[0]), "warmup_steps": 0}
    before = learned[1].model.get_weights()

    def changed(weights):
        return [bool((one != other).any()) for one, other in zip(before, weights, strict=True)]

    whole = run(tmp_path / "whole", freeze_epochs=1, **options)
    assert all(changed(whole.model.get_weights()))
    assert whole.model.trainable
    assert len(whole.model.trainable_weights) == len(before)
    for stop_at in (3, 5, 7):  # while it is frozen, at the end of that, and after it
        with stopped_at(stop_at):
            run(tmp_path / "stopped", freeze_epochs=1, **options)
    with np.load(list_checkpoints(tmp_path / "stopped" / "checkpoints")[5]) as archive:
        weights = [archive[f"model/{i}"] for i in range(len(before))]
    assert changed(weights) == [False] * (len(before) - 2) + [True, True]
    resumed = run(tmp_path / "stopped", freeze_epochs=1, **options)
    assert_same_weights(whole.model, resumed.model)
    assert resumed.history["resumed"] == [1, 1, 0]  # the epochs whose first steps their figures leave out


@pytest.mark.parametrize("options", [{}, {"ema_momentum": 0.5, "holdout": 0.2}])
@pytest.mark.backends
def test_the_best_epoch_is_kept_and_training_stops_when_it_stays_the_best(tmp_path, options):
    said = []
    # After the first epochs the rate is so large that the accuracy falls.
    options |= {"epochs": 12, "optimizer": "sgd", "learning_rate": 1.5, "warmup_steps": 40, "clip_norm": None}
    result = run(tmp_path / "run", keep="best", patience=2, log=said.append, **options)
    accuracies = result.history["val_accuracy"]
    best = int(np.argmax(accuracies))
    assert len(accuracies) == min(best + 3, 12)
    assert result.metrics["best_epoch"] == best
    assert result.metrics["best_accuracy"] == pytest.approx(accuracies[best])
    assert result.metrics["last_accuracy"] == pytest.approx(accuracies[-1])
    assert result.metrics["accuracy"] == pytest.approx(accuracies[best], abs=1e-6)
    found = f"Best validation accuracy {accuracies[best]:.2%} after epoch {best + 1}"
    assert any(line.startswith(found) for line in said)
    too_high = any("chosen on the test images, so that its accuracy is too high" in line for line in said)
    assert too_high == ("holdout" not in options)


def test_a_recipe_for_beginners_suits_a_few_pictures(tmp_path):
    folder, said = write_folder(tmp_path / "images", images_per_class=24), []
    options = SMALL | {"data": str(folder), "epochs": 2}
    result = keras_mixer.fit("scratch_small", workdir=tmp_path / "run", log=said.append, **options)
    assert result.history["step"] == [6, 12]
    assert (
        "48 training images are few for this recipe: global_batch_size 8 instead of 512, warmup_steps 1"
        in "\n".join(said)
    )
