"""The paper's tables, the Pareto front and Avg 5."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.avg5 import FIVE, average_of_five
from experiments.linear_cost import attention_block, mixer_block, slope
from experiments.pareto import PUBLISHED, pareto_front


def test_the_front_holds_what_nothing_beats(rng):
    cost, gain = rng.integers(0, 12, 60), rng.integers(0, 12, 60)
    front = pareto_front(cost, gain)
    beaten = [
        any((cost[j] <= cost[i] and gain[j] >= gain[i]) and (cost[j] < cost[i] or gain[j] > gain[i]) for j in range(60))
        for i in range(60)
    ]
    assert {(cost[i], gain[i]) for i in front} == {(cost[i], gain[i]) for i in range(60) if not beaten[i]}
    assert (np.diff(cost[front]) > 0).all()


def test_the_tables_are_the_papers():
    rows = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))
    second, third = ([row for row in rows if row["table"] == table] for table in "23")
    assert (len(second), len(third)) == (10, 26)
    found = {(row["model"], row["pretraining"], row["image_size"], row["epochs"]): row for row in third}
    assert found["Mixer-L/16", "ImageNet", "224", "300"]["imagenet"] == "71.76"  # below B/16: it overfits
    assert found["Mixer-H/14", "JFT", "224", "14"]["core_days"] == "1010"
    speeds = {(row["model"], row["image_size"], row["images_per_second"]) for row in third}
    assert len(speeds) == len({speed[:2] for speed in speeds})  # speed depends on model and size alone
    assert all(not row["real"] or float(row["real"]) > float(row["imagenet"]) for row in rows)


def test_avg_5_is_the_mean_over_data_sets_not_over_runs():
    results = [(data, 0.5) for data in FIVE.values()]
    results += [("cifar10", 0.9), ("/data/cifar10/3.0.2", 1.0)]  # three runs on CIFAR-10: their mean is 0.8
    assert average_of_five(results) == (pytest.approx((4 * 0.5 + 0.8) / 5), [])
    few = [("oxford_flowers102:2.1.1", 0.99), ("imagenet2012", 0.8)]
    assert average_of_five(few) == (None, ["CIFAR-10", "CIFAR-100", "Pets"])
    with pytest.raises(ValueError, match=r"five data sets imagenet2012, cifar10, .*, got 'cifar10_1'"):
        average_of_five([("cifar10_1", 0.5)])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts in a graph of TensorFlow")
def test_costs_are_those_of_the_graph():
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    options = options.with_accounted_types([".*MatMul.*"]).with_empty_output().build()
    block, macs = mixer_block(49, 64, 32)
    graph = tf.function(block).get_concrete_function(tf.TensorSpec((1, 49, 64))).graph
    assert profiler.profile(graph, options=options).total_float_ops == 2 * macs
    tokens = (4, 16, 64)
    assert slope(tokens, [mixer_block(count, 64, 32)[1] for count in tokens]) == pytest.approx(1)
    _, macs = attention_block(10, 64)  # projections, products with keys and values, channel MLP
    assert macs == 4 * 10 * 64**2 + 2 * 10**2 * 64 + 2 * 10 * 64 * 256
