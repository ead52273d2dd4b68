import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from tfds_files import write_tfds

from keras_mixer.data.prepared import NotPrepared
from keras_mixer.paper import vtab
from keras_mixer.paper.vtab import VtabSettings, vtab_1k
from keras_mixer.paper.vtab_tasks import GROUPS, VTAB_TASKS, load_task
from keras_mixer.training import fit as loop
from keras_mixer.training.callbacks import Checkpoints, TrainingDiverged
from keras_mixer.training.optimizers import build_schedule

GREY = np.full((16, 16, 1), 7, np.uint8)


def answers(split):
    return [int(split.read(element)["label"]) for element in split.elements]


def test_the_tasks_are_the_papers_nineteen():
    sizes = {group: [task.classes for task in VTAB_TASKS.values() if task.group == group] for group in GROUPS}
    assert sizes["natural"] == [102, 100, 47, 102, 37, 397, 10]
    assert sizes["specialised"] == [2, 10, 45, 5]
    assert sizes["structured"] == [8, 6, 6, 4, 16, 16, 18, 9]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("task", VTAB_TASKS.values(), ids=VTAB_TASKS)
def test_data_and_answers_are_those_of_the_real_data_sets(task):
    import tensorflow_datasets as tfds

    features = tfds.builder(task.data, data_dir="nowhere").info.features
    assert "image" in features
    assert set(task.features) <= set(features)
    (feature,) = task.features
    if feature in ("label", "label_azimuth", "label_elevation"):
        assert features[feature].num_classes == task.classes
    if feature.endswith(("position", "orientation")):
        values = features[feature].num_classes
        found = [int(task.answer({feature: tf.constant(value, tf.int64)})) for value in range(values)]
        assert found == [value * task.classes // values for value in range(values)]
        assert sorted(set(found)) == list(range(task.classes))


def test_clevr_asks_for_number_and_nearness(tmp_path):
    distances = [[7.0, 12, 9], [8.2] * 4, [8.9] * 10, [9.2, 9.9, 10], [9.9] * 3, [10.5] * 5]

    def scene(depths):
        empty = {key: [0] * len(depths) for key in ("color", "material", "rotation", "shape", "size")}
        place = [[0.0, 0.0, depth] for depth in depths]
        return {"image": np.zeros((8, 8, 3), np.uint8), "objects": empty | {"3d_coords": place, "pixel_coords": place}}

    scenes = [scene(depths) for depths in distances]
    write_tfds(tmp_path, "clevr", {"train": scenes * 2, "validation": scenes})
    count = load_task(VTAB_TASKS["clevr_count"], tmp_path)
    assert answers(count.test) == [0, 1, 7, 0, 0, 2]
    assert (count.train.size, count.validation.size, count.both.size) == (11, 1, 12)
    assert answers(load_task(VTAB_TASKS["clevr_distance"], tmp_path).test) == [0, 1, 2, 3, 4, 5]


def test_kitti_asks_for_the_nearest_vehicle():
    task = VTAB_TASKS["kitti_distance"]
    for types, depths, expected in [
        ([0, 3], [7.9, 2.0], 0),  # a pedestrian at 2 m is no vehicle
        ([2, 1], [30.0, 12.0], 1),
        ([1], [45.0], 2),
        ([3, 7], [5.0, 6.0], 3),
        ([], [], 3),
    ]:
        places = tf.constant([[0.0, 0.0, depth] for depth in depths], shape=(len(depths), 3))
        element = {"objects": {"type": tf.constant(types, tf.int64), "location": places}}
        assert int(task.answer(element)) == expected


def test_validation_images_come_from_the_part_that_the_protocol_says(tmp_path):
    part = [{"image": GREY.repeat(6, 0).repeat(6, 1), "label_azimuth": i % 18} for i in range(2000)]
    write_tfds(tmp_path, "smallnorb", {"train": part, "test": part[:1000]})
    data = load_task(VTAB_TASKS["smallnorb_azimuth"], tmp_path)
    assert answers(data.train) == [i % 18 for i in range(800)]
    assert answers(data.validation) == [i % 18 for i in range(200)]
    assert answers(data.both) == answers(data.train) + answers(data.validation)
    assert answers(data.test) == [i % 18 for i in range(500, 1000)]


def test_dsprites_pixels_become_visible(tmp_path):
    sprite = np.zeros((64, 64, 1), np.uint8)
    sprite[20:30, 20:30] = 1
    write_tfds(tmp_path, "dsprites", {"train": [{"image": sprite, "label_x_position": 31}] * 10})
    data = load_task(VTAB_TASKS["dsprites_position"], tmp_path)
    (example,) = [data.test.read(element) for element in data.test.elements]
    assert tf.io.decode_image(example["image"]).numpy().max() == 255
    assert int(example["label"]) == 15


@pytest.fixture
def colours(tmp_path):
    """A data set whose answer is the colour of the image."""

    def part(count, side):
        images = np.zeros((count, side, side, 3), np.uint8)
        images[np.arange(count), :, :, np.arange(count) % 3] = 200
        return [{"image": image, "label": i % 3} for i, image in enumerate(images)]

    write_tfds(tmp_path, "svhn_cropped", {"train": part(60, 32), "test": part(9, 32)})
    return tmp_path


def test_a_report_learns_what_is_there_lists_the_rest_and_goes_on(tiny_mixer, colours, tmp_path):
    model = tiny_mixer(classes=5, num_blocks=1)
    before = model.get_weights()
    settings = VtabSettings(learning_rates=(1e-50, 0.3), steps=12, batch_size=32, image_size=16)
    lines = []
    options = {"data_dir": colours, "settings": settings, "log": lines.append}
    result = vtab_1k(model, tmp_path / "report", tasks=["svhn", "resisc45"], **options)
    assert result.tasks["svhn"]["accuracy"] == 1.0
    assert result.tasks["svhn"]["learning_rate"] == 0.3  # the other is 0 in float32
    assert "by hand" in result.absent["resisc45"]
    result = vtab_1k(model, tmp_path / "report", **options)
    assert list(result.tasks) == ["svhn"]
    assert len(result.absent) == 18
    assert [line.split(":")[0] for line in lines] == ["svhn"]  # it was not done again
    assert [row[0] for row in result.table()] == ["svhn", "mean of 1 of the 7 natural", "mean of 1 of the 19"]
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert json.loads((tmp_path / "report" / "vtab.json").read_text())["results"].keys() == {"svhn"}
    assert not list((tmp_path / "report" / "runs").iterdir())  # the runs are removed once their results are stored
    with pytest.raises(ValueError, match="has other settings"):
        vtab_1k(model, tmp_path / "report", data_dir=colours, settings=VtabSettings(steps=3))
    with pytest.raises(ValueError, match="Unknown tasks cars; valid ones are caltech101"):
        vtab_1k(model, tmp_path / "report", tasks=["cars"])


@pytest.fixture
def kept(monkeypatch):
    """The classifiers that the fine-tunings of a test end with, in order."""
    models = []

    def fit_model(recipe, **options):
        result = loop.fit_model(recipe, **options)
        models.append(result.model)
        return result

    monkeypatch.setattr(vtab, "fit_model", fit_model)
    return models


def distance(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


QUICK = VtabSettings(learning_rates=(0.03,), steps=6, batch_size=32, seeds=(0, 1), image_size=16)


def test_an_interrupted_report_resumes_to_the_same_weights(tiny_mixer, colours, tmp_path, kept, monkeypatch):
    model = tiny_mixer(classes=5, num_blocks=1)
    options = {"tasks": ["svhn"], "data_dir": colours, "settings": QUICK, "log": lambda line: None}
    expected = vtab_1k(model, tmp_path / "whole", **options).tasks["svhn"]
    uninterrupted = kept[:]
    assert len(uninterrupted) == 2  # two seeds
    assert distance(*uninterrupted) > 1e-4  # a seed decides the order of the data
    monkeypatch.setattr(vtab, "CHECKPOINT_EVERY_STEPS", 2)
    kept.clear()
    steps = 0

    def crash(self, batch, logs=None, original=Checkpoints.on_train_batch_begin):
        nonlocal steps
        original(self, batch, logs)  # which may write a checkpoint
        steps += 1
        if steps in (4, 6 + 6):  # after step 3 of the first run and of the second
            raise RuntimeError("power failure")

    monkeypatch.setattr(Checkpoints, "on_train_batch_begin", crash)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="power failure"):
            vtab_1k(model, tmp_path / "crashed", **options)
    folder = tmp_path / "crashed" / "runs" / "svhn"
    assert {item.name for item in folder.iterdir()} == {"accuracies.json", "test_svhn_lr_0.03_seed_1"}
    result = vtab_1k(model, tmp_path / "crashed", **options).tasks["svhn"]
    assert steps == 2 * 6 + 2 * 2  # at each crash one step was lost and one had begun
    assert [distance(one, other) for one, other in zip(uninterrupted, kept, strict=True)] == [0.0] * 2
    assert {**result, "seconds": 0} == {**expected, "seconds": 0}


@pytest.mark.backends
def test_several_devices_fine_tune_to_the_weights_of_one(tiny_mixer, colours, tmp_path, kept):
    model = tiny_mixer(classes=5, num_blocks=1)
    options = {"tasks": ["svhn"], "data_dir": colours, "log": lambda line: None}
    options["settings"] = dataclasses.replace(QUICK, seeds=(0,))
    one, several = (
        vtab_1k(model, tmp_path / devices, devices=devices, **options).tasks["svhn"] for devices in ("cpu", "2")
    )
    assert distance(*kept) <= 1e-6
    assert several["accuracy"] == one["accuracy"]
    options["settings"] = dataclasses.replace(options["settings"], precision="mixed_bfloat16")
    vtab_1k(model, tmp_path / "bfloat16", devices="cpu", **options)
    assert 0 < distance(kept[0], kept[2]) < 1e-2


def test_a_diverged_fine_tuning_counts_as_zero(tiny_mixer, colours, tmp_path, monkeypatch):
    def diverge(recipe, **options):
        raise TrainingDiverged("The loss is nan at step 3.")

    monkeypatch.setattr(vtab, "fit_model", diverge)
    lines = []
    options = {"tasks": ["svhn"], "data_dir": colours, "settings": VtabSettings(image_size=16), "log": lines.append}
    assert vtab_1k(tiny_mixer(classes=5, num_blocks=1), tmp_path / "report", **options).tasks["svhn"]["accuracy"] == 0
    assert lines[0] == "svhn: The loss is nan at step 3."


def test_the_recipe_of_a_task_is_that_of_the_paper():
    settings = VtabSettings()
    pets, count = (settings.recipe(VTAB_TASKS[name], 0.003, 0) for name in ("pets", "clevr_count"))
    assert (pets.steps, pets.global_batch_size, pets.warmup_steps, pets.optimizer) == (500, 512, 100, "sgd")
    assert (pets.clip_norm, pets.weight_decay, pets.mixup_alpha, pets.image_size) == (1.0, 0.0, 0.0, 448)
    schedule = build_schedule(pets, 500)
    steps = [0, 50, 99, 100, 199, 200, 299, 300, 399, 400, 499]
    rates = [0, 0.5, 0.99, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose([float(schedule(step)) for step in steps], np.multiply(rates, 0.003), rtol=1e-5)
    assert (pets.crop_area, pets.crop_aspect, pets.flip) == ((49 / 64, 49 / 64), None, True)
    assert (count.crop_area, count.crop_aspect, count.flip) == ((1.0, 1.0), None, False)


def test_what_needs_no_hand_says_the_command(tmp_path):
    with pytest.raises(NotPrepared, match="svhn_cropped is not prepared: tfds build svhn_cropped --data_dir="):
        load_task(VTAB_TASKS["svhn"], tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("learning_rates", value) for value in ((), (0.0,), (-1.0,), (float("nan"),), [0.1])),
        *(("seeds", value) for value in ((), (-1,), (2**31,))),
        *((field, value) for field in ("steps", "batch_size", "image_size") for value in (0, 1.5)),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be .*, got "):
        VtabSettings(**{field: value})
