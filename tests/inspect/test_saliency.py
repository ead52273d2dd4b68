import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, photographs

from keras_mixer.inspect.saliency import overlay, saliency, write_saliency

pytestmark = pytest.mark.backends


def test_the_map_adds_up_to_the_logit(tiny_mixer, rng):
    model = tiny_mixer(input_shape=(16, 24, 3), classifier_activation=None)
    image = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    logits = keras.ops.convert_to_numpy(model(image[None]))[0]
    bias = model.get_layer("head").get_weights()[1]
    for index in (0, 7):
        activation = saliency(model, image, index)
        assert activation.shape == (16, 24)
        # resized by an integer factor, the mean over pixels is that over cells, except at the border
        cells = np.asarray(tf.image.resize(activation[..., None], (4, 6), antialias=True))[..., 0]
        assert abs(cells.mean() + bias[index] - logits[index]) < 0.15 * np.abs(activation).max()
    np.testing.assert_array_equal(saliency(model, image), saliency(model, image, int(logits.argmax())))


def test_the_map_points_at_the_part_that_speaks_for_the_class(tiny_mixer):
    model = tiny_mixer(include_preprocessing=False, classifier_activation=None, num_blocks=1)
    block = model.get_layer("mixer_block_0")
    for mlp in (block.token_mixing, block.channel_mixing):  # no mixing: a token sees only its own patch
        mlp.dense_1.kernel.assign(np.zeros(mlp.dense_1.kernel.shape))
    image = np.zeros((16, 16, 3), np.float32)
    image[8:12, 4:8] = 1
    activation = saliency(model, image, 3)
    difference = np.abs(activation - np.median(activation))
    assert np.unravel_index(difference.argmax(), difference.shape)[0] in range(7, 13)
    assert np.unravel_index(difference.argmax(), difference.shape)[1] in range(3, 9)
    assert difference[:4, 12:].max() < 1e-4


def test_a_picture_is_written_for_the_class_that_is_asked_for(tiny_mixer, tmp_path):
    model = tiny_mixer(input_shape=(32, 32, 3))
    model.class_names = tuple("abcdefghij")
    (tmp_path / "photograph.jpg").write_bytes(encode(photographs()[0], "JPEG"))
    assert write_saliency(model, tmp_path / "photograph.jpg", tmp_path / "s.png", "c") == "c"
    picture = tf.io.decode_png((tmp_path / "s.png").read_bytes())
    assert picture.shape == (256, 256, 3)
    with pytest.raises(ValueError, match="not overwritten"):
        write_saliency(model, tmp_path / "photograph.jpg", tmp_path / "s.png")
    with pytest.raises(ValueError, match="Unknown class 'z'; the model has a, b"):
        write_saliency(model, tmp_path / "photograph.jpg", tmp_path / "t.png", "z")
    with pytest.raises(FileNotFoundError, match="There is no image file"):
        write_saliency(model, tmp_path / "nothing.jpg", tmp_path / "t.png")


def test_colours_say_for_and_against():
    picture = overlay(np.full((2, 2, 3), 100), np.array([[1.0, -1.0], [0.0, 0.0]])).astype(int)
    red, blue = picture[0, :, 0], picture[0, :, 2]
    assert (red > blue).tolist() == [True, False]
    assert (picture[1] == 100).all()


def test_a_model_without_head_or_class_is_refused(tiny_mixer):
    image = np.zeros((16, 16, 3))
    with pytest.raises(ValueError, match="no head"):
        saliency(tiny_mixer(include_top=False), image)
    with pytest.raises(ValueError, match="0 to 9"):
        saliency(tiny_mixer(), image, 10)
