import dataclasses

import pytest

import keras_mixer
from keras_mixer.variants import token_grid

CLASSES = (1000, 21843, 10, 0)
# Parameters by classes, and GMACs; B/16, B/32 and L/16 with 1000 classes are asserted by vit_jax's own tests too.
COUNTS = {
    "S/32": (19_104_624, 29_797_083, 18_596_754, 18_591_624, 1.002),
    "S/16": (18_528_264, 29_220_723, 18_020_394, 18_015_264, 3.777),
    "B/32": (60_293_428, 76_321_695, 59_532_118, 59_524_428, 3.238),
    "B/16": (59_880_472, 75_908_739, 59_119_162, 59_111_472, 12.602),
    "L/32": (206_939_264, 228_303_339, 205_924_514, 205_914_264, 11.253),
    "L/16": (208_196_168, 229_560_243, 207_181_418, 207_171_168, 44.548),
    "H/14": (432_350_952, 459_050_835, 431_082_762, 431_069_952, 120.990),
    "S/8": (20_646_504, 31_338_963, 20_138_634, 20_133_504, 14.875),
}


def test_the_formula_gives_the_published_counts_of_table_1_and_s8():
    assert list(keras_mixer.VARIANTS) == list(COUNTS)
    for name, (*parameters, giga_macs) in COUNTS.items():
        variant = keras_mixer.VARIANTS[name]
        assert [variant.parameters(classes=classes) for classes in CLASSES] == parameters, name
        assert round(variant.macs() / 1e9, 3) == giga_macs


@pytest.mark.parametrize("name", COUNTS)
def test_models_have_the_published_counts(name, monkeypatch):
    variant = keras_mixer.VARIANTS[name]
    others = 0 if name.startswith("S") else variant.num_blocks - 1  # equal blocks that need not be built
    fewer = dataclasses.replace(variant, num_blocks=variant.num_blocks - others)
    monkeypatch.setitem(keras_mixer.VARIANTS, name, fewer)
    model = getattr(keras_mixer, f"Mixer{name.replace('/', '')}", lambda: keras_mixer.Mixer(**vars(variant)))()
    parameters = model.count_params() + others * model.get_layer("mixer_block_0").count_params()
    assert parameters == COUNTS[name][0]
    assert parameters - model.get_layer("head").count_params() == COUNTS[name][3]
    assert len(model.weights) + 12 * others == 12 * variant.num_blocks + 6


def test_sizes_that_do_not_fit_are_refused():
    for image, patch, message in [
        ((225, 224), 16, r"height of 225 px .* 16 px; .* 224 px"),
        ((14, 9), 14, r"width of 9 px .* 14 px; .* 14 px"),
        ((None, 224), 16, r"positive integer or a pair .* got \(None, 224\)"),
        ((224, 224), (0, 4), r"positive integer or a pair .* got \(0, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            token_grid(image, patch)
