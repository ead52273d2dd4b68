import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, photographs

from keras_mixer.export.predictor import Predictor
from keras_mixer.inspect.saliency import overlay, saliency, write_saliency

pytestmark = pytest.mark.backends


def test_a_patch_supports_a_class_by_what_its_probability_loses_without_it(tiny_mixer, rng):
    predictor = Predictor.of(tiny_mixer(input_shape=(16, 24, 3)))
    image = np.full((16, 24, 3), 90, np.uint8)  # the median, which covers the patches
    image[8:, :12] = rng.integers(0, 256, (8, 12, 3))
    activation = saliency(predictor, image, 7)
    assert activation.shape == (4, 6)
    assert activation[1, 2] == 0
    covered = image.copy()
    covered[12:, :4] = 90
    both = predictor.probabilities(np.stack([image, covered]))
    np.testing.assert_allclose(activation[3, 0], both[0, 7] - both[1, 7], atol=1e-6)
    rival = saliency(predictor, image, 7, 2)
    np.testing.assert_allclose(rival, activation - saliency(predictor, image, 2), atol=1e-6)


def test_the_map_points_at_the_part_that_speaks_for_the_class(tiny_mixer):
    model = tiny_mixer(num_blocks=1)
    block = model.get_layer("mixer_block_0")
    for mlp in (block.token_mixing, block.channel_mixing):  # no mixing: a token sees only its own patch
        mlp.dense_1.kernel.assign(np.zeros(mlp.dense_1.kernel.shape))
    image = np.zeros((16, 16, 3), np.uint8)
    image[8:12, 4:8] = 255
    activation = np.abs(saliency(Predictor.of(model), image, 3))
    assert np.unravel_index(activation.argmax(), activation.shape) == (2, 1)
    assert activation.max() > 0
    activation[2, 1] = 0
    assert not activation.any()  # nothing happens in the rest of the image


def test_a_picture_is_written_for_the_class_that_is_asked_for(tiny_mixer, tmp_path):
    model = tiny_mixer(input_shape=(32, 32, 3))
    model.class_names = tuple("abcdefghij")
    (tmp_path / "photograph.jpg").write_bytes(encode(photographs()[0], "JPEG"))
    assert write_saliency(model, tmp_path / "photograph.jpg", tmp_path / "s.png", "c") == "c"
    assert tf.io.decode_png((tmp_path / "s.png").read_bytes()).shape[:2] == (460, 1008)
    with pytest.raises(ValueError, match="not overwritten"):
        write_saliency(model, tmp_path / "photograph.jpg", tmp_path / "s.png")
    with pytest.raises(ValueError, match="Unknown class 'z'; the model has a, b"):
        write_saliency(model, tmp_path / "photograph.jpg", tmp_path / "t.png", "z")
    with pytest.raises(FileNotFoundError, match="There is no image file"):
        write_saliency(model, tmp_path / "nothing.jpg", tmp_path / "t.png")


def test_colors_say_for_and_against():
    image = np.full((4, 4, 3), 100)
    picture = overlay(image, np.array([[1.0, -1.0], [0.0, 0.0]])).astype(int)
    assert picture[0, 0, 0] > picture[0, 0, 2]
    assert picture[0, 3, 2] > picture[0, 3, 0]
    assert (picture[2:] == 100).all()


def test_a_model_without_head_is_refused(tiny_mixer, tmp_path):
    (tmp_path / "photograph.jpg").write_bytes(encode(photographs()[0], "JPEG"))
    with pytest.raises(ValueError, match="without a head has no classes to explain"):
        write_saliency(tiny_mixer(include_top=False), tmp_path / "photograph.jpg", tmp_path / "s.png")
