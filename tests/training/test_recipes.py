import dataclasses
import json

import pytest

from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES, resolve
from keras_mixer.training.run_directory import read_recipe, recipe_from
from keras_mixer.variants import VARIANTS


def test_recipes_are_named_after_their_key():
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="valid ones are digits, smoke"):
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


# variant, epochs, learning rate, weight decay, RandAugment magnitude, mixup p, stochastic depth: Table 4 of the paper
TABLE_4 = {
    "imagenet1k_b16": ("B/16", 300, 1e-3, 0.1, 15, 0.5, 0.1),
    "imagenet1k_l16": ("L/16", 300, 1e-3, 0.1, 15, 0.5, 0.1),
    "imagenet21k_b16": ("B/16", 300, 1e-3, 0.1, 10, 0.2, 0.1),
    "imagenet21k_l16": ("L/16", 300, 1e-3, 0.1, 20, 0.5, 0.1),
    "jft300m_s32": ("S/32", 5, 3e-3, 0.03, 0, 0, 0),
    "jft300m_s16": ("S/16", 5, 3e-3, 0.03, 0, 0, 0),
    "jft300m_b32": ("B/32", 7, 3e-3, 0.03, 0, 0, 0),
    "jft300m_b16": ("B/16", 7, 3e-3, 0.03, 0, 0, 0),
    "jft300m_l32": ("L/32", 7, 1e-3, 0.03, 0, 0, 0),
    "jft300m_l16": ("L/16", 7, 1e-3, 0.03, 0, 0, 0),
    "jft300m_l16_14ep": ("L/16", 14, 1e-3, 0.03, 0, 0, 0),
    "jft300m_h14": ("H/14", 14, 1e-3, 0.03, 0, 0, 0),
}


@pytest.mark.parametrize("name", TABLE_4)
def test_pre_training_recipes_are_the_rows_of_table_4(name):
    recipe = RECIPES[name]
    fields = (
        "variant",
        "epochs",
        "learning_rate",
        "weight_decay",
        "randaugment_level",
        "mixup_alpha",
        "drop_path_rate",
    )
    assert tuple(getattr(recipe, field) for field in fields) == TABLE_4[name]
    assert recipe.architecture() == VARIANTS[recipe.variant]
    assert (recipe.global_batch_size, recipe.warmup_steps, recipe.schedule) == (4096, 10_000, "linear")
    assert (recipe.optimizer, recipe.clip_norm, recipe.dropout_rate, recipe.image_size) == ("adamw", 1.0, 0.0, 224)
    assert recipe.randaugment_num_ops == (2 if recipe.randaugment_level else 0)


def test_fine_tuning_is_section_4_of_the_paper():
    recipe = RECIPES["finetune"]
    assert (recipe.optimizer, recipe.global_batch_size, recipe.clip_norm, recipe.schedule) == (
        "sgd",
        512,
        1.0,
        "cosine",
    )
    assert (recipe.weight_decay, recipe.mixup_alpha, recipe.randaugment_num_ops, recipe.loss) == (0, 0, 0, "softmax")


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("epochs", "3", "int"),
        ("epochs", True, "int"),
        ("epochs", 2.5, "int"),
        ("learning_rate", None, "float"),
        ("learning_rate", float("nan"), "float"),
        pytest.param("weight_decay", 10**400, "float", id="beyond floats"),
        ("flip", 1, "bool"),
        ("loss", "hinge", "Literal"),
        ("image_size", (16, 16, 3), "tuple"),
        ("crop_area", [0.1, 1.0], "tuple"),
        ("class_weights", ("a",), "tuple"),
        ("variant", ["B/16"], "str"),
    ],
)
def test_fields_hold_what_they_say(field, value, wanted):
    with pytest.raises(ValueError, match=rf"{field} must be .*{wanted}.*, not "):
        resolve("digits", **{field: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "a JSON object, not"),
        (b"\xff", "decode"),
        (b'{"name": "a"}', r"missing fields: \['data'\]"),
        (b'{"name": "a", "data": "b", "batch": 3}', r"unknown fields: \['batch'\]"),
        (b'{"name": "a", "data": "b", "epochs": {}}', "epochs must be int"),
    ],
)
def test_a_damaged_configuration_says_what_is_wrong(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json holds no recipe.*{message}"):
        read_recipe(tmp_path)


def test_every_recipe_survives_its_file():
    for recipe in RECIPES.values():
        assert recipe_from(json.dumps(dataclasses.asdict(recipe)).encode()) == recipe
