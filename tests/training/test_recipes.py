import ast
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from keras_mixer import cli
from keras_mixer.training import recipe as recipe_module
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES, resolve
from keras_mixer.training.run import read_recipe, recipe_from
from keras_mixer.variants import VARIANTS


def test_recipes_are_named_after_their_key():
    assert all(recipe.name == name for name, recipe in RECIPES.items())


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match="valid ones are digits, fashion_mnist, fashion_mnist_small, smoke"):
        resolve("no_such_recipe")
    with pytest.raises(ValueError, match=r"learningrate.*learning_rate"):
        resolve("digits", learningrate=1)
    with pytest.raises(ValueError, match=r"S/32, S/16.*B/17"):
        resolve("digits", variant="B/17")


def test_architecture_is_a_variant_with_replacements():
    assert resolve("digits", variant="B/16").architecture() == VARIANTS["B/16"]
    assert Recipe("x", "digits", patch_size=8).architecture() == dataclasses.replace(VARIANTS["B/16"], patch_size=8)
    assert resolve("digits").architecture().parameters((16, 16, 3), 10) == 115_114


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
        ("epochs", "x", "be a valid integer"),
        ("epochs", 2.5, "be a valid integer"),
        ("steps", "x", "be a valid integer"),
        ("learning_rate", None, "be a valid number"),
        ("learning_rate", float("nan"), "be a finite number"),
        ("learning_rate", 1e39, "be less than or equal to"),  # infinite in float32
        ("flip", 3, "be a valid boolean"),
        ("loss", "hinge", "be 'softmax' or 'sigmoid'"),
        ("image_size", (16, 16, 3), "be a valid integer or have at most 2 items"),
        ("class_weights", ("a",), "be 'balanced' or be a valid number"),
        ("variant", ["B/16"], "be a valid string"),
    ],
)
def test_fields_hold_what_they_say(field, value, wanted):
    with pytest.raises(ValueError, match=f"^{field} must {wanted}.*, got {re.escape(f'{value!r}')}\\.$"):
        resolve("digits", **{field: value})


def test_each_wrong_value_has_a_line_and_numpy_scalars_and_lists_are_taken():
    with pytest.raises(ValueError, match=r"^test_fraction must .* 1, got 2\.\nepochs must .* 1, got 0\.$"):
        resolve("digits", epochs=0, test_fraction=2)
    recipe = resolve("digits", epochs=np.int64(3), weight_decay=np.float32(0.5), image_size=[16, np.int32(24)])
    assert recipe == resolve("digits", epochs=3, weight_decay=0.5, image_size=(16, 24))
    assert json.dumps(dataclasses.asdict(recipe))


# Words in the text of a field, values that they exclude, fields.
RANGES = [
    (
        "at least 1",
        [0],
        [
            *("data_shards", "patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim", "channels_mlp_dim", "epochs"),
            *("steps", "steps_per_epoch", "global_batch_size", "patience", "shuffle_buffer", "accumulation_steps"),
            *("checkpoint_every_steps", "image_size"),
        ],
    ),
    ("at least 0", [-1], ["split_seed", "warmup_steps", "randaugment_num_ops", "freeze_epochs"]),
    ("at least 0", [-1e-9, 1e39], ["weight_decay", "sam_rho", "mixup_alpha", "cutmix_alpha"]),
    ("at least 0", [(-1e-9, 1.0), (), (0.0, 0.0)], ["class_weights"]),
    ("greater than 0", [0.0, 1e39], ["teacher_temperature", "learning_rate", "clip_norm"]),
    ("greater than 0", [(0.0, 1.0), (1.5, 0.5), (1.0, 1e39)], ["crop_aspect"]),
    ("in [0, 1)", [-1e-9, 1.0], ["holdout", "dropout_rate", "drop_path_rate", "label_smoothing"]),
    ("in (0, 1)", [0.0, 1.0], ["test_fraction", "ema_momentum"]),
    ("in (0, 1]", [(0.0, 1.0), (0.5, 1.1), (1.0, 0.1)], ["crop_area"]),
    ("in [0, 20]", [-1e-9, 20.1], ["randaugment_level"]),
    ("in [0, 255]", [-1, 256], ["randaugment_fill"]),
    ("in [0, 2147483647]", [-1, 2**31], ["seed"]),
    ("any number", [-1e39, 1e39], ["head_bias"]),
    ("", [""], ["data", "data_dir", "weights", "teacher", "train_split", "test_split", "label"]),
    ("", [" ", "a\0b"], ["data", "label"]),
    ("", ["", ".", "..", "a/b", "a\\b", "a\n"], ["name"]),
    ("", ["", "0", "-1", "1.5", "gpus", "\N{SUPERSCRIPT TWO}", 0, True], ["devices"]),
    ("", ["none such"], ["loss", "optimizer", "schedule", "keep", "resolution_method", "precision", "xla_on_cpu"]),
    ("", ["b/16"], ["variant", "evaluation_crop", "freeze_epochs"]),
    ("", [(), ("Nope",), ("Rotate", "rotate")], ["randaugment_operations"]),
]
FIELDS = {field.name: field.type for field in dataclasses.fields(Recipe)}


def test_every_field_states_and_enforces_its_values():
    (tree,) = ast.parse(inspect.getsource(Recipe)).body
    pairs = zip(tree.body, tree.body[1:], strict=False)
    texts = {one.target.id: text.value.value for one, text in pairs if isinstance(one, ast.AnnAssign)}
    assert texts.keys() == FIELDS.keys()
    assert {name for *_, names in RANGES for name in names} == {name for name in FIELDS if FIELDS[name] is not bool}
    for words, excluded, names in RANGES:
        for field in names:
            assert words in " ".join(texts[field].split()), field
            for value in excluded:
                with pytest.raises(ValueError, match=rf"^{field} must .*, got "):
                    resolve("digits", **{field: value})


@pytest.mark.parametrize(("field", "value"), [(field, values[0]) for _, values, fields in RANGES for field in fields])
def test_the_command_line_refuses_what_python_refuses(field, value, capsys):
    words = map(str, value) if isinstance(value, tuple) else [str(value)]
    try:
        status = cli.main(["train", "digits", f"--{field.replace('_', '-')}", *words, "--dry-run"])
    except SystemExit as stop:  # of tyro, which says in a box what is wrong
        status = stop.code
    assert status == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(rf"\b{field}\b|--{field.replace('_', '-')}\b", printed.err)


def test_a_number_of_devices_may_be_an_integer():
    recipe = resolve("digits", devices=4)
    assert recipe == resolve("digits", devices="4")
    assert dataclasses.asdict(recipe)["devices"] == "4"  # as in the config.json of earlier runs


def test_recipes_are_checked_without_tensorflow():
    code = "import sys, keras_mixer.training.recipe; print([m for m in ('tensorflow', 'keras_cv') if m in sys.modules])"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout == "[]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOF while parsing"),
        (b"[" * 100_000, "recursion"),
        (b"[1]", r"must be a valid dictionary, got \[1\]"),
        (b'{"name": "\xff"}', "invalid unicode"),
        (b'{"name": "a"}', "data Field required"),
        (b'{"name": "a", "data": "b", "batch": 3}', "batch Unexpected keyword argument, got 3"),
        (b'{"name": "a", "data": "b", "epochs": {}}', "epochs must be a valid integer"),
    ],
)
def test_a_damaged_configuration_says_what_is_wrong(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json does not contain a recipe.*{message}"):
        read_recipe(tmp_path)


def test_only_tiny_models_use_xla_on_a_cpu_by_default(monkeypatch):
    monkeypatch.setattr(recipe_module, "XLA_BELOW_MACS", 10**9)
    assert {name: recipe.compiles_on_cpu() for name, recipe in RECIPES.items() if recipe.compiles_on_cpu()} == {
        "digits": True
    }
    assert resolve("fashion_mnist_small", global_batch_size=32).compiles_on_cpu()
    assert resolve("imagenet1k_b16", xla_on_cpu=True).compiles_on_cpu()
    assert not resolve("digits", xla_on_cpu=False).compiles_on_cpu()


def test_every_recipe_survives_its_file():
    for recipe in RECIPES.values():
        assert recipe_from(json.dumps(dataclasses.asdict(recipe)).encode()) == recipe
