import ast
import dataclasses
import inspect
import json

import numpy as np
import pytest

from keras_mixer.inspect.plan import plan
from keras_mixer.training import recipe as recipe_module
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES, resolve
from keras_mixer.training.run import read_recipe
from keras_mixer.variants import VARIANTS


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="valid ones are digits, fashion_mnist, fashion_mnist_small, smoke"):
        resolve("no_such_recipe")
    with pytest.raises(ValueError, match="learningrate Unexpected keyword argument, got 1"):
        resolve("digits", learningrate=1)
    with pytest.raises(ValueError, match=r"S/32, S/16.*B/17"):
        resolve("digits", variant="B/17")


def test_architecture_is_a_variant_with_replacements():
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


def test_recipes_are_those_of_the_paper():
    for name, row in TABLE_4.items():
        recipe = RECIPES[name]
        found = (recipe.variant, recipe.epochs, recipe.learning_rate, recipe.weight_decay)
        assert (*found, recipe.randaugment_level, recipe.mixup_alpha, recipe.drop_path_rate) == row
        assert recipe.architecture() == VARIANTS[recipe.variant]
        assert (recipe.global_batch_size, recipe.warmup_steps, recipe.schedule) == (4096, 10_000, "linear")
        assert (recipe.optimizer, recipe.clip_norm, recipe.dropout_rate, recipe.image_size) == ("adamw", 1.0, 0.0, 224)
        assert recipe.randaugment_num_ops == (2 if recipe.randaugment_level else 0)
    recipe = RECIPES["finetune"]  # section 3
    assert (recipe.optimizer, recipe.global_batch_size, recipe.clip_norm) == ("sgd", 512, 1.0)
    assert (recipe.schedule, recipe.loss, recipe.weight_decay) == ("cosine", "softmax", 0)
    assert (recipe.mixup_alpha, recipe.randaugment_num_ops) == (0, 0)


def test_every_recipe_has_the_name_of_its_key_and_survives_its_file():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_fields_that_contradict_each_other_are_refused():
    for options, words in (
        ({"accumulation_steps": 3}, "accumulation_steps=3 must divide global_batch_size=64"),
        ({"teacher": "a.keras", "loss": "sigmoid", "label_smoothing": 0}, "teacher works only with loss 'softmax'"),
        ({"rematerialize": True, "dropout_rate": 0.1}, "Set dropout_rate to 0 or turn off rematerialize"),
        ({"randaugment_level": 0}, "randaugment_num_ops needs randaugment_level"),
        ({"freeze_epochs": 1, "ema_momentum": 0.9}, "Turn off ema_momentum"),
    ):
        with pytest.raises(ValueError, match=words):
            resolve("digits", **options)


def test_each_wrong_value_has_a_line_and_numpy_scalars_and_lists_are_taken():
    with pytest.raises(ValueError, match=r"^test_fraction must .* 1, got 2\.\nepochs must .* 1, got 0\.$"):
        resolve("digits", epochs=0, test_fraction=2)
    recipe = resolve("digits", epochs=np.int64(3), weight_decay=np.float32(0.5), image_size=[16, np.int32(24)])
    assert recipe == resolve("digits", epochs=3, weight_decay=0.5, image_size=(16, 24))
    assert resolve("digits", devices=4) == resolve("digits", devices="4")


# Words in the text of a field, values that they exclude, fields.
RANGES = [
    (
        "at least 1",
        [0, 2.5],
        [
            *("data_shards", "patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim", "channels_mlp_dim", "epochs"),
            *("steps", "steps_per_epoch", "global_batch_size", "patience", "shuffle_buffer", "accumulation_steps"),
            *("checkpoint_every_steps", "image_size"),
        ],
    ),
    ("at least 0", [-1], ["split_seed", "warmup_steps", "randaugment_num_ops", "freeze_epochs"]),
    ("at least 0", [-1e-9, 1e39], ["weight_decay", "sam_rho", "mixup_alpha", "cutmix_alpha"]),
    ("at least 0", [(-1e-9, 1.0), (), (0.0, 0.0)], ["class_weights"]),
    ("greater than 0", [0.0, 1e39, float("nan"), "x"], ["teacher_temperature", "learning_rate", "clip_norm"]),
    ("greater than 0", [(0.0, 1.0), (1.5, 0.5), (1.0, 1e39)], ["crop_aspect"]),
    ("in [0, 1)", [-1e-9, 1.0], ["holdout", "dropout_rate", "drop_path_rate", "label_smoothing"]),
    ("in (0, 1)", [0.0, 1.0], ["test_fraction", "ema_momentum"]),
    ("in (0, 1]", [(0.0, 1.0), (0.5, 1.1), (1.0, 0.1)], ["crop_area"]),
    ("in [0, 20]", [-1e-9, 20.1], ["randaugment_level"]),
    ("in [0, 255]", [-1, 256], ["randaugment_fill"]),
    ("in [0, 2147483647]", [-1, 2**31], ["seed"]),
    ("any number", [-1e39, 1e39], ["head_bias"]),
    ("", [""], ["data", "data_dir", "weights", "teacher", "train_split", "test_split", "label"]),
    ("", ["", ".", "..", "a/b", "a\\b", "a\n"], ["name"]),
    ("", ["", "0", "-1", "1.5", "gpus", "\N{SUPERSCRIPT TWO}", 0], ["devices"]),
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


def test_a_damaged_configuration_says_what_is_wrong(tmp_path):
    for content, message in (
        (b"", "EOF while parsing"),
        (b"[1]", r"must be a valid dictionary, got \[1\]"),
        (b'{"name": "a", "batch": 3}', "data Field required, .*\nbatch Unexpected keyword argument, got 3"),
    ):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=rf"config\.json has no valid recipe.*{message}"):
            read_recipe(tmp_path)


def test_only_tiny_models_use_xla_on_a_cpu_by_default(monkeypatch):
    monkeypatch.setattr(recipe_module, "XLA_BELOW_MACS", 10**9)
    assert [name for name, recipe in RECIPES.items() if recipe.compiles_on_cpu()] == ["digits"]
    assert resolve("imagenet1k_b16", xla_on_cpu=True).compiles_on_cpu()
    assert not resolve("digits", xla_on_cpu=False).compiles_on_cpu()


def test_the_plan_of_the_papers_imagenet_run():
    numbers = plan(RECIPES["imagenet1k_b16"])
    assert numbers.examples == 1_268_355  # 99 % of train
    assert (numbers.steps_per_epoch, numbers.total_steps) == (309, 92_700)
    assert numbers.parameters == 59_880_472
    assert round(numbers.macs / 1e9, 3) == 12.602
    assert numbers.weight_and_optimizer_bytes == 16 * 59_880_472  # weights, gradients, two moments
    wide = plan(resolve("imagenet1k_b16", image_size=448, weights="imagenet21k"))
    assert (wide.parameters, numbers.macs * 4 < wide.macs) == (86_996_392, True)  # by the paper's rule
    for option in ({"ema_momentum": 0.999}, {"sam_rho": 0.05}):
        assert plan(resolve("imagenet1k_b16", **option)).weight_and_optimizer_bytes == 20 * 59_880_472


def test_a_plan_leaves_open_what_depends_on_unread_data():
    numbers = plan(resolve("finetune", data="my_images"))
    assert (numbers.examples, numbers.classes, numbers.steps_per_epoch) == (None, None, None)
    assert (numbers.total_steps, numbers.parameters) == (10_000, 59_111_472)  # of the body
    assert plan(resolve("digits", data="my_images")).total_steps is None
    numbers = plan(resolve("digits", data="my_images", steps_per_epoch=10, epochs=3))
    assert (numbers.steps_per_epoch, numbers.total_steps) == (10, 30)


@pytest.mark.parametrize(("test_fraction", "holdout"), [(0.01, 0.3), (0.15, 0.0), (1 / 3, 0.1), (0.99, 0.1)])
def test_a_plan_counts_the_digits_that_training_sees(test_fraction, holdout):
    recipe = resolve("digits", test_fraction=test_fraction, holdout=holdout, global_batch_size=8)
    assert plan(recipe).examples == load_recipe_source(recipe).train.size
