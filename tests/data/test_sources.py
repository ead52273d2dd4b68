import numpy as np
import pytest

from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import held_out_places, hold_out, pixels_split, stratified_split, subsample


def images_of(split):
    return list(split.elements.batch(split.size).get_single_element()["image"].numpy())


def test_digits_are_the_1797_of_scikit_learn_and_the_seed_chooses_their_split():
    source = load_source("digits")
    train, test = images_of(source.train), images_of(source.test)
    assert source.class_names == tuple("0123456789")
    assert (len(train), len(test)) == (source.train.size, source.test.size) == (1437, 360)
    assert train[0].shape == (8, 8, 1)
    assert set(np.unique(train)) == {round(level * 255 / 16) for level in range(17)}
    np.testing.assert_array_equal(test, images_of(load_source("digits").test))
    assert (source.test.labels() != load_source("digits", split_seed=1).test.labels()).any()


def test_stratified_split_keeps_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [100, 50, 3])
    train, test = stratified_split(labels, 0.2)
    assert sorted([*train, *test]) == list(range(153))
    assert np.bincount(labels[test]).tolist() == [20, 10, 1]
    with pytest.raises(ValueError, match="3 images cannot be split"):
        stratified_split([0, 0, 1], 0.5)


@pytest.mark.parametrize("share", [0.1, 1 / 3])
def test_holding_out_takes_evenly_spaced_examples_away_from_training(share):
    source = load_source("digits")
    held = hold_out(source, share)
    train, test, everything = (
        [image.tobytes() for image in images_of(split)] for split in (held.train, held.test, source.train)
    )
    assert (len(train), len(test)) == (held.train.size, held.test.size)
    assert len(test) == int(source.train.size * share)
    assert sorted(train + test) == sorted(everything)
    places = np.flatnonzero(np.isin(everything, test))
    assert np.diff(places).max() <= np.ceil(source.train.size / len(test))
    with pytest.raises(ValueError, match="leaves nothing"):
        hold_out(source, 0.0001)


def test_a_rounded_fraction_holds_out_the_same_examples():
    for size, fraction, rounded in ((60_000, 1 / 12, 0.0833333), (1437, 1 / 3, 0.33333)):
        exact = held_out_places(size, fraction)
        assert exact.sum() == size * fraction
        np.testing.assert_array_equal(exact, held_out_places(size, rounded))


@pytest.mark.parametrize(("size", "count"), [(1001, 1000), (3, 1000), (1000, 1)])
def test_a_subsample_has_the_size_asked_for_and_is_evenly_spaced(size, count):
    split = pixels_split(np.zeros((size, 1, 1, 3), np.uint8), np.arange(size), size)
    found = subsample(split, count).labels()
    assert len(found) == min(size, count)
    assert np.ptp(np.diff(found)) <= 1 if len(found) > 1 else found == 0
