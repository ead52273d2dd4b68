import dataclasses

import pytest

from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.plan import plan
from keras_mixer.training.recipes import RECIPES, resolve


def test_the_plan_of_the_papers_imagenet_run():
    numbers = plan(RECIPES["imagenet1k_b16"])
    assert numbers.examples == 1_268_355  # 99 % of train
    assert (numbers.steps_per_epoch, numbers.total_steps) == (309, 92_700)
    assert numbers.parameters == 59_880_472
    assert round(numbers.macs / 1e9, 3) == 12.602
    assert numbers.weight_bytes == 16 * 59_880_472  # weights, gradients, two moments


def test_what_depends_on_unread_data_is_left_open():
    numbers = plan(resolve("finetune", data="my_pictures"))
    assert (numbers.examples, numbers.classes, numbers.steps_per_epoch) == (None, None, None)
    assert numbers.total_steps == 10_000
    assert numbers.parameters == 59_111_472  # the body
    assert plan(resolve("digits", data="my_pictures")).total_steps is None


def test_an_epoch_given_in_steps_needs_no_images():
    numbers = plan(resolve("digits", data="my_pictures", steps_per_epoch=10, epochs=3))
    assert (numbers.steps_per_epoch, numbers.total_steps) == (10, 30)


def test_held_out_images_are_not_counted():
    assert plan(resolve("digits", holdout=0.1)).examples == 1437 - 143
    assert plan(resolve("fashion_mnist", holdout=1 / 12)).examples == 55_000


@pytest.mark.parametrize("test_fraction", [0.01, 0.1, 0.15, 0.2, 1 / 3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("holdout", [0.0, 0.1, 0.3])
def test_a_plan_counts_the_digits_that_training_sees(test_fraction, holdout):
    recipe = resolve("digits", test_fraction=test_fraction, holdout=holdout, train_split="train[:50%]")
    assert plan(recipe).examples == load_recipe_source(recipe).train.size


def test_memory_counts_every_copy_of_the_weights():
    recipe = RECIPES["imagenet1k_b16"]
    average = plan(dataclasses.replace(recipe, ema_momentum=0.999))
    assert average.weight_bytes == plan(recipe).weight_bytes * 5 / 4
    assert plan(dataclasses.replace(recipe, sam_rho=0.05)).weight_bytes == average.weight_bytes
