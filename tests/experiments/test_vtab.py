import numpy as np
import pytest
import tensorflow as tf
from tfds_files import write_tfds

from experiments import vtab
from experiments.vtab_tasks import VTAB_TASKS
from keras_mixer.training.optimizers import WarmupDecay
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


def test_the_recipe_of_a_task_is_that_of_the_paper():
    fields = (vtab.fields_of(VTAB_TASKS[name], 0.003, 0, steps=500) for name in ("pets", "clevr_count"))
    pets, count = (resolve("finetune", **of_task) for of_task in fields)
    assert (pets.steps, pets.global_batch_size, pets.warmup_steps, pets.optimizer) == (500, 512, 100, "sgd")
    assert (pets.clip_norm, pets.weight_decay, pets.mixup_alpha, pets.image_size) == (1.0, 0.0, 0.0, 448)
    schedule = WarmupDecay(pets.schedule, pets.learning_rate, pets.warmup_steps, pets.steps)
    steps = [0, 50, 99, 100, 199, 200, 299, 300, 399, 400, 499]
    rates = [0, 0.5, 0.99, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose([float(schedule(step)) for step in steps], np.multiply(rates, 0.003), rtol=1e-5)
    assert (pets.crop_area, pets.crop_aspect, pets.flip) == ((49 / 64, 49 / 64), None, True)
    assert (count.crop_area, count.crop_aspect, count.flip) == ((1.0, 1.0), None, False)
