import numpy as np
import pytest

from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import pixels_split, stratified_split
from keras_mixer.training.inputs import held_out_places, hold_out


def images_of(split):
    return list(split.elements.batch(split.size).get_single_element()["image"].numpy())


def test_digits_are_the_1797_of_scikit_learn_and_the_seed_chooses_their_split():
    source = load_source("digits")
    train, test = images_of(source.train), images_of(source.test)
    assert source.class_names == tuple("0123456789")
    assert (len(train), len(test)) == (source.train.size, source.test.size) == (1437, 360)
    assert set(np.unique(train)) == {round(level * 255 / 16) for level in range(17)}
    np.testing.assert_array_equal(test, images_of(load_source("digits").test))
    assert (source.test.labels() != load_source("digits", split_seed=1).test.labels()).any()
    assert np.ptp(np.bincount(source.test.labels())) <= 2  # the same fraction of each class
    with pytest.raises(ValueError, match="least populated class"):
        stratified_split([0, 0, 1], 0.5)


def test_holding_out_takes_examples_from_all_over_away_from_training():
    source = load_source("digits")
    held = hold_out(source, 0.1)
    parts = (held.train, held.test, source.train)
    train, test, everything = ([image.tobytes() for image in images_of(split)] for split in parts)
    assert (len(train), len(test)) == (held.train.size, held.test.size) == (1294, 143)
    assert sorted(train + test) == sorted(everything)
    assert np.diff(np.flatnonzero(np.isin(everything, test))).max() <= 20
    assert set(np.flatnonzero(held_out_places(1000, 0.1)) % 10) == set(range(10))  # labels that repeat in turn
    with pytest.raises(ValueError, match="leaves nothing"):
        hold_out(source, 0.0001)
    for size, fraction, rounded in ((60_000, 1 / 12, 0.0833333), (1437, 1 / 3, 0.33333)):
        exact = held_out_places(size, fraction)
        assert exact.sum() == size * fraction
        np.testing.assert_array_equal(exact, held_out_places(size, rounded))


def test_a_subsample_has_the_size_asked_for_and_is_from_all_over():
    split = pixels_split(np.zeros((1001, 1, 1, 3), np.uint8), np.arange(1001), 1001)
    for count in (1, 300, 1000, 2000):
        found = split.subsample(count).labels()
        assert len(found) == min(1001, count)
        assert np.diff(found, prepend=-1, append=1001).max() <= 2 * (1001 // count + 1)
