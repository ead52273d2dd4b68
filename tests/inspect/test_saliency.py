import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, photographs

from keras_mixer.export.predictor import Predictor
from keras_mixer.inspect.saliency import overlay, saliency, write_saliency


@pytest.mark.backends
def test_a_patch_supports_a_class_by_what_its_probability_loses_without_it(tiny_mixer, rng):
    predictor = Predictor.of(tiny_mixer(input_shape=(16, 24, 3), num_blocks=1))
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


def test_a_picture_is_written_for_the_class_that_is_asked_for(tiny_mixer, tmp_path):
    model = tiny_mixer(input_shape=(32, 32, 3), num_blocks=1)
    model.class_names = tuple("abcdefghij")
    photograph = tmp_path / "photograph.jpg"
    photograph.write_bytes(encode(photographs()[0], "JPEG"))
    assert write_saliency(model, photograph, tmp_path / "s", "c") == "c"
    assert tf.io.decode_png((tmp_path / "s").read_bytes()).shape[:2] == (460, 1008)
    for classifier, name, message in [
        (model, "z", "Unknown class 'z'; the model has a, b"),
        (tiny_mixer(include_top=False), None, "without a head has no classes to explain"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_saliency(classifier, photograph, tmp_path / "t.png", name)


def test_colors_say_for_and_against():
    image = np.full((4, 4, 3), 100)
    picture = overlay(image, np.array([[1.0, -1.0], [0.0, 0.0]])).astype(int)
    assert picture[0, 0, 0] > picture[0, 0, 2]
    assert picture[0, 3, 2] > picture[0, 3, 0]
    assert (picture[2:] == 100).all()
