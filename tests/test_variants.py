import functools

import pytest

import keras_mixer
from keras_mixer.variants import as_pair, token_grid

# Totals by classes; B/16, B/32 and L/16 with 1000 classes are asserted by vit_jax's own tests too.
PARAMETERS = {
    "S/32": {1000: 19_104_624, 21843: 29_797_083, 10: 18_596_754, 0: 18_591_624},
    "S/16": {1000: 18_528_264, 21843: 29_220_723, 10: 18_020_394, 0: 18_015_264},
    "B/32": {1000: 60_293_428, 21843: 76_321_695, 10: 59_532_118, 0: 59_524_428},
    "B/16": {1000: 59_880_472, 21843: 75_908_739, 10: 59_119_162, 0: 59_111_472},
    "L/32": {1000: 206_939_264, 21843: 228_303_339, 10: 205_924_514, 0: 205_914_264},
    "L/16": {1000: 208_196_168, 21843: 229_560_243, 10: 207_181_418, 0: 207_171_168},
    "H/14": {1000: 432_350_952, 21843: 459_050_835, 10: 431_082_762, 0: 431_069_952},
    "S/8": {1000: 20_646_504, 21843: 31_338_963, 10: 20_138_634, 0: 20_133_504},
}
GIGA_MACS = {
    "S/32": 1.002,
    "S/16": 3.777,
    "B/32": 3.238,
    "B/16": 12.602,
    "L/32": 11.253,
    "L/16": 44.548,
    "H/14": 120.990,
    "S/8": 14.875,
}


def test_the_seven_rows_of_table_1_and_s8_are_there():
    assert list(keras_mixer.VARIANTS) == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_formula_gives_the_published_counts(name):
    variant = keras_mixer.VARIANTS[name]
    for classes, expected in PARAMETERS[name].items():
        assert variant.parameters(classes=classes) == expected
    assert round(variant.macs() / 1e9, 3) == GIGA_MACS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_models_have_the_published_counts(name):
    by_sizes = functools.partial(keras_mixer.Mixer, **vars(keras_mixer.VARIANTS[name]))
    build = by_sizes if name == "S/8" else getattr(keras_mixer, f"Mixer{name.replace('/', '')}")
    for classes in (1000, 21843, 10) if name.startswith("S") else (1000,):  # beyond S the head alone would differ
        model = build(classes=classes)
        assert model.count_params() == PARAMETERS[name][classes]
        assert len(model.weights) == 12 * keras_mixer.VARIANTS[name].num_blocks + 6
    assert model.count_params() - model.get_layer("head").count_params() == PARAMETERS[name][0]


def test_sizes_are_pairs_of_positive_integers():
    assert as_pair(16) == (16, 16)
    assert as_pair([8, 16]) == (8, 16)
    for wrong in (0, -1, (1, 2, 3), (0, 4), 1.5):
        with pytest.raises((ValueError, TypeError)):
            as_pair(wrong)


def test_a_side_that_does_not_divide_is_refused_with_the_nearest_that_do():
    with pytest.raises(ValueError, match=r"height of 225 px .* 16 px; .* 224 or 240 px"):
        token_grid((225, 224), (16, 16))
    with pytest.raises(ValueError, match=r"width of 9 px .* 14 px; .* 14 px"):
        token_grid((14, 9), (14, 14))
    with pytest.raises(ValueError, match=r"height is unknown"):
        token_grid((None, 224), (16, 16))
