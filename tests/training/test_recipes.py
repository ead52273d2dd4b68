import dataclasses

import pytest

from keras_mixer.training.recipes import RECIPES, Recipe, resolve
from keras_mixer.variants import VARIANTS


def test_recipes_are_named_after_their_key():
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="valid ones are digits"):
        resolve("no_such_recipe")
    with pytest.raises(ValueError, match=r"learningrate.*learning_rate"):
        resolve("digits", learningrate=1)
    with pytest.raises(ValueError, match=r"B/17.*S/32, S/16"):
        resolve("digits", variant="B/17")


def test_architecture_is_a_variant_with_replacements():
    assert resolve("digits", variant="B/16").architecture() == VARIANTS["B/16"]
    assert Recipe("x", "digits", patch_size=8).architecture() == dataclasses.replace(VARIANTS["B/16"], patch_size=8)
    assert resolve("digits").architecture().parameters((16, 16, 3), 10) == 115_114


@pytest.mark.parametrize("field", ["epochs", "global_batch_size", "checkpoint_every_steps"])
def test_counts_are_positive(field):
    with pytest.raises(ValueError, match=field):
        resolve("digits", **{field: 0})
