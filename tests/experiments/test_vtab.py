import numpy as np
import pytest
import tensorflow as tf
from tfds_files import write_tfds

from experiments import vtab
from experiments.vtab_tasks import VTAB_TASKS
from keras_mixer.training.optimizers import build_schedule
from keras_mixer.training.recipes import resolve


def answers(data, part):
    return [int(label) for _, label in data[part]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_data_and_answers_are_those_of_the_real_data_sets():
    import tensorflow_datasets as tfds

    for name, task in VTAB_TASKS.items():
        features = tfds.builder(task.data, data_dir="nowhere").info.features
        assert {"image", task.feature} <= set(features), name
        if task.feature in ("label", "label_azimuth", "label_elevation"):
            assert features[task.feature].num_classes == task.classes, name
        if task.feature.endswith(("position", "orientation")):
            values = features[task.feature].num_classes
            found = [int(task.answer(tf.constant(value, tf.int64))) for value in range(values)]
            assert found == [value * task.classes // values for value in range(values)], name


def test_clevr_asks_for_number_and_nearness(tmp_path):
    distances = [[7.0, 12, 9], [8.2] * 4, [8.9] * 10, [9.2, 9.9, 10], [9.9] * 3, [10.5] * 5]

    def scene(depths):
        empty = {key: [0] * len(depths) for key in ("color", "material", "rotation", "shape", "size")}
        place = [[0.0, 0.0, depth] for depth in depths]
        return {"image": np.zeros((8, 8, 3), np.uint8), "objects": empty | {"3d_coords": place, "pixel_coords": place}}

    scenes = [scene(depths) for depths in distances]
    write_tfds(tmp_path, "clevr", {"train": scenes * 2, "validation": scenes})
    count = vtab.read_task(VTAB_TASKS["clevr_count"], tmp_path)
    assert answers(count, "test") == [0, 1, 7, 0, 0, 2]
    assert [len(count[part]) for part in ("train", "validation", "both")] == [11, 1, 12]
    assert answers(vtab.read_task(VTAB_TASKS["clevr_distance"], tmp_path), "test") == [0, 1, 2, 3, 4, 5]


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
        assert int(task.answer({"type": tf.constant(types, tf.int64), "location": places})) == expected


def test_validation_images_come_from_the_part_that_the_protocol_says(tmp_path):
    grey = np.full((96, 96, 1), 7, np.uint8)
    part = [{"image": grey, "label_azimuth": i % 18} for i in range(1000)]
    write_tfds(tmp_path, "smallnorb", {"train": part, "test": part[:500]})
    data = vtab.read_task(VTAB_TASKS["smallnorb_azimuth"], tmp_path)
    assert answers(data, "train") == [i % 18 for i in range(800)]
    assert answers(data, "validation") == [i % 18 for i in range(200)]
    assert answers(data, "both") == answers(data, "train") + answers(data, "validation")
    assert answers(data, "test") == [i % 18 for i in range(250, 500)]
    assert vtab.read_task(VTAB_TASKS["svhn"], tmp_path) is None  # not on disk


def test_dsprites_pixels_become_visible(tmp_path):
    sprite = np.zeros((64, 64, 1), np.uint8)
    sprite[20:30, 20:30] = 1
    write_tfds(tmp_path, "dsprites", {"train": [{"image": sprite, "label_x_position": 31}] * 10})
    ((image, label),) = vtab.read_task(VTAB_TASKS["dsprites_position"], tmp_path)["test"]
    assert tf.io.decode_image(image).numpy().max() == 255
    assert int(label) == 15


def test_the_recipe_of_a_task_is_that_of_the_paper():
    fields = (vtab.fields_of(VTAB_TASKS[name], 0.003, 0, steps=500) for name in ("pets", "clevr_count"))
    pets, count = (resolve("finetune", **of_task) for of_task in fields)
    assert (pets.steps, pets.global_batch_size, pets.warmup_steps, pets.optimizer) == (500, 512, 100, "sgd")
    assert (pets.clip_norm, pets.weight_decay, pets.mixup_alpha, pets.image_size) == (1.0, 0.0, 0.0, 448)
    schedule = build_schedule(pets, 500)
    steps = [0, 50, 99, 100, 199, 200, 299, 300, 399, 400, 499]
    rates = [0, 0.5, 0.99, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose([float(schedule(step)) for step in steps], np.multiply(rates, 0.003), rtol=1e-5)
    assert (pets.crop_area, pets.crop_aspect, pets.flip) == ((49 / 64, 49 / 64), None, True)
    assert (count.crop_area, count.crop_aspect, count.flip) == ((1.0, 1.0), None, False)
