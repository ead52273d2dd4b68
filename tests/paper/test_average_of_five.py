import pytest

from keras_mixer.paper.average_of_five import FIVE, average_of_five


def test_avg_5_is_the_mean_over_data_sets_not_over_runs():
    results = [(data, 0.5) for data in FIVE.values()]
    assert average_of_five(results).average == 0.5
    results += [("cifar10", 0.9), ("/data/cifar10/3.0.2", 1.0)]  # three runs on CIFAR-10: their mean is 0.8
    result = average_of_five(results)
    assert result.accuracy["CIFAR-10"] == pytest.approx(0.8)
    assert result.average == pytest.approx((4 * 0.5 + 0.8) / 5)


def test_fewer_than_five_give_no_average_but_say_what_is_missing():
    result = average_of_five([("oxford_flowers102:2.1.1", 0.99), ("imagenet2012", 0.8)])
    assert list(result.accuracy) == ["ImageNet", "Flowers"]
    assert result.average is None
    assert result.missing == ("CIFAR-10", "CIFAR-100", "Pets")


def test_another_data_set_is_refused():
    with pytest.raises(ValueError, match=r"five data sets imagenet2012, cifar10, .*, got 'cifar10_1'"):
        average_of_five([("cifar10_1", 0.5)])
