import numpy as np
import pytest

from keras_mixer.inspect.figures import write_figure
from keras_mixer.inspect.speed import Throughput
from keras_mixer.paper.pareto import OwnPoint, pareto_figure, pareto_front, throughput_figure, tradeoff_figure
from keras_mixer.paper.published import TABLE_2, TABLE_3


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
    assert (len(TABLE_2), len(TABLE_3)) == (10, 26)
    rows = {(row.model, row.pretraining, row.image_size, row.epochs): row for row in TABLE_3}
    assert rows["Mixer-L/16", "ImageNet", 224, 300].imagenet == 71.76  # below B/16: it overfits
    assert rows["Mixer-H/14", "JFT", 224, 14].core_days == 1010
    speeds = {(row.model, row.image_size): row.images_per_second for row in TABLE_3}
    for row in TABLE_3:  # speed depends on model and size alone
        assert speeds[row.model, row.image_size] == row.images_per_second
    for row in (*TABLE_2, *TABLE_3):
        assert row.real is None or row.real > row.imagenet


def test_own_points_are_drawn_and_named(tmp_path):
    figure = pareto_figure([OwnPoint("mine", 77.0, 1000.0)])
    left, right = ([text.get_text() for text in ax.texts] for ax in figure.axes)
    assert "mine" in left
    assert "mine" not in right
    assert "Mixer-S/32" in left
    assert write_figure(figure, tmp_path / "p.png").is_file()


def test_own_runs_are_drawn_with_their_front():
    (ax,) = tradeoff_figure({"slow": (10.0, 93.0), "beaten": (10.0, 92.0), "fast": (100.0, 90.0)}).axes
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[100, 90], [10, 93]])
    assert [text.get_text() for text in ax.texts] == ["slow", "beaten", "fast"]


def test_throughput_is_drawn(tmp_path):
    (ax,) = throughput_figure({"a": [Throughput(1, 5.0, None), Throughput(8, 20.0, None)]}).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [5.0, 20.0])


def test_a_mixer_block_costs_what_the_tokens_are_and_attention_more():
    from keras_mixer.paper.linear_cost import LinearCost, linear_cost, linear_cost_figure

    sizes = {"hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32, "heads": 2}
    result = linear_cost((32, 64, 128), seconds=0.02, **sizes)
    assert result.tokens == (4, 16, 64)
    assert result.macs["Mixer"] == tuple(2 * count * 16 * (8 + 32) for count in result.tokens)
    assert result.macs["attention"] == tuple(
        count * 16 * (4 * 16 + 2 * 32) + 2 * count**2 * 16 for count in (4, 16, 64)
    )
    assert result.macs_slopes()["Mixer"] == pytest.approx(1)
    exact = LinearCost((10, 100), {"a": (50.0, 0.5)}, {})
    assert exact.slopes()["a"] == pytest.approx(2)
    assert len(linear_cost_figure(result).axes[0].lines) == 2
    assert (
        min(min(v) for v in linear_cost((32, 64), seconds=0.02, training=True, **sizes).images_per_second.values()) > 0
    )
    with pytest.raises(ValueError, match=r"sides of \[40\]"):
        linear_cost((32, 40))
