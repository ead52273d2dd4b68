"""What the figures of experiments/ rest on: each network and measure against its definition."""

import json

import keras
import numpy as np
import pytest

import keras_mixer
from experiments import avg5
from experiments.networks import small_resnet
from experiments.permutation import INPUTS, on_shuffled, permuted, permuted_mixer, shuffle_patches
from experiments.token_weights import arrange, mean_radial_frequency, smoothness, unit_weights
from experiments.training import Training, train
from experiments.untied import GroupedTokenMlp, untied_mixer, untied_parameters
from keras_mixer.variants import Variant


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.backends
def test_permuted_weights_undo_permuted_patches(tiny_mixer, rng):
    input_shape, patch_size = (12, 16, 1), (3, 8)
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    images = rng.integers(0, 256, (3, *input_shape)).astype(np.float32)
    shuffled = numpy(permuted(images, shuffle_patches(input_shape[:2], patch_size, seed=5)))
    assert np.abs(numpy(model(shuffled)) - numpy(model(images))).max() > 0.1
    np.testing.assert_allclose(numpy(permuted_mixer(model, seed=5)(shuffled)), numpy(model(images)), atol=1e-5)
    assert np.abs(numpy(permuted_mixer(model, seed=6)(shuffled)) - numpy(model(images))).max() > 0.1


def test_a_network_sees_the_same_pixels_in_another_order(rng):
    image = keras.Input((8, 8, 3))
    seen = keras.Model(image, keras.layers.Identity()(image))
    images = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    outputs = {(kind, seed): numpy(on_shuffled(seen, kind, 4, seed)(images)) for kind in INPUTS for seed in (1, 2)}
    np.testing.assert_array_equal(outputs["original", 1], images)
    for kind in INPUTS[1:]:
        assert (outputs[kind, 1] != images).any()
        assert (outputs[kind, 1] != outputs[kind, 2]).any()
        sort = [np.sort(x.reshape(2, 64, 3), axis=1) for x in (outputs[kind, 1], images)]
        np.testing.assert_array_equal(*sort)


def test_every_group_of_channels_has_the_papers_token_mlp_of_its_own(rng):
    groups, mlps = GroupedTokenMlp(4, 5), [keras_mixer.MlpBlock(5) for _ in range(4)]
    x = rng.normal(size=(2, 12, 8)).astype(np.float32)  # (B, S, C)
    groups.build(x.shape)
    kernel = numpy(groups.kernel_0)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1  # groups start apart
    outputs = []
    for i, mlp in enumerate(mlps):
        mine = x[..., 2 * i : 2 * i + 2].transpose(0, 2, 1)  # (B, C / 4, S)
        mlp.build(mine.shape)
        for weight in mlp.weights:
            weight.assign(rng.normal(size=weight.shape))
        outputs.append(numpy(mlp(mine)).transpose(0, 2, 1))
    groups.set_weights([np.stack(arrays) for arrays in zip(*(mlp.get_weights() for mlp in mlps), strict=True)])
    np.testing.assert_allclose(numpy(groups(x)), np.concatenate(outputs, -1), atol=1e-5)


def test_networks_have_the_parameters_of_the_page():
    variant = Variant(8, 1, 8, 4, 8)
    for groups in (1, 4, 8):
        model = untied_mixer(variant, groups, (16, 24, 3), 7)
        assert model.count_params() == untied_parameters(variant, groups, (16, 24, 3), 7)
    assert small_resnet((32, 32, 3), 10).count_params() == 529_898


def wave(shape, cycles, phase=0.0):
    """A plane wave with `cycles` (rows, columns) over the image."""
    y, x = np.meshgrid(*(np.arange(side) / side for side in shape), indexing="ij")
    return np.cos(2 * np.pi * (cycles[0] * y + cycles[1] * x) + phase)


def test_planted_waves_have_their_frequency_and_come_out_in_order_with_their_opposites_beside_them(rng, tiny_mixer):
    shape = (8, 12)
    cycles = sorted([(0, 1), (1, 1), (2, 1), (0, 3), (3, 3)], key=lambda pair: np.hypot(pair[0] / 8, pair[1] / 12))
    found = mean_radial_frequency([wave(shape, pair, 0.3) for pair in cycles])
    np.testing.assert_allclose(found, [np.hypot(a / 8, b / 12) for a, b in cycles], atol=1e-12)
    mean, random, low = smoothness(rng.standard_normal((4000, 8, 8)))
    np.testing.assert_allclose((mean / random, low), (1, 0.05), atol=0.02)
    planted = [sign * size * wave(shape, pair) for pair in cycles for sign, size in ((1, 1), (-1, 3))]
    shuffled = rng.permutation(len(planted))
    noise = 0.01 * rng.normal(size=(len(planted), *shape))
    order, similarity = arrange(np.array(planted)[shuffled] + noise)
    np.testing.assert_array_equal(shuffled[order] // 2, np.arange(len(planted)) // 2)
    assert (similarity < -0.99).all()
    model = tiny_mixer(input_shape=(16, 24, 3))
    kernel = model.get_layer("mixer_block_1").token_mixing.dense_0.get_weights()[0]
    assert unit_weights(model)[1][5, 2, 3] == kernel[2 * 6 + 3, 5]  # weights are on the grid as the tokens are


def test_avg_5_is_the_mean_over_data_sets_not_over_runs(tmp_path, capsys):
    results = {"part": "test", "test_images": 9, "evaluation_crop": "resize", "image_size": [8, 8]}
    runs = [*((data.split()[0], 0.5) for data in avg5.FIVE.values()), ("cifar10", 0.9), ("/data/cifar10/3", 1.0)]
    for number, (data, accuracy) in enumerate(runs):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"data": data}))
        (run / "results.json").write_text(json.dumps(results | {"accuracy": accuracy}))
    avg5.main(tuple(tmp_path.iterdir()))
    assert "Avg 5: 56.00%" in capsys.readouterr().out
    (tmp_path / "0" / "results.json").write_text(json.dumps(results | {"accuracy": 1.0, "part": "held-out"}))
    with pytest.raises(ValueError, match="test images"):
        avg5.main(tuple(tmp_path.iterdir()))


def test_a_network_is_measured_at_equal_distances_with_its_own_pixels(tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    network, digits = keras.Model(image, keras.layers.Dense(10)(x)), Training("smoke", image_size=8)
    options = {"steps": 30, "points": 3, "workdir": tmp_path / "run"}
    curve = train(network, digits.settings, digits.source, **options)
    assert len(curve) == 3
    assert curve[2] > curve[0] > 0.1
    assert train(network, digits.settings, digits.source, **options) == curve  # the run was kept
