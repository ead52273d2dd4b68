import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data.splits import Split
from keras_mixer.evaluation.outputs import NO_GUESS
from keras_mixer.export.predictor import Predictor
from keras_mixer.inspect.answers import Answers, answers_of, examples_at

ANSWERS = Answers(
    labels=np.array([0, 1, 1, 0, 2, 2]),
    predicted=np.array([0, 0, 1, 2, 2, NO_GUESS]),
    confidence=np.array([0.9, 0.6, 0.5, 0.8, 0.7, np.nan]),
    rivals=np.array([1, 1, 0, 0, 0, 2]),
    of_rival=np.array([0.1, 0.4, 0.4, 0.1, 0.2, np.nan]),
)


def test_mistakes_come_most_confident_first_and_right_answers_least_confident_first():
    assert ANSWERS.confident_mistakes(9).tolist() == [3, 1]
    assert ANSWERS.confident_mistakes(1).tolist() == [3]
    assert ANSWERS.unsure_right_answers(2).tolist() == [2, 4]
    assert ANSWERS.confusion(3).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]


def test_answers_and_examples_belong_to_their_images(tiny_mixer, rng):
    model = tiny_mixer(classes=3)
    model.class_names, model.evaluation_crop = ("a", "b", "c"), "resize"
    predictor = Predictor.of(model)
    pixels, labels = rng.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2, 0])
    encoded = np.array([tf.io.encode_png(image).numpy() for image in pixels])
    elements = tf.data.Dataset.from_tensor_slices({"image": encoded, "label": labels})
    split = Split(7, 3, elements, read=lambda element: element, files=tuple(f"/home/me/cat/{i}.png" for i in range(7)))
    answers = answers_of(predictor, split)
    probabilities = predictor.probabilities(pixels)
    np.testing.assert_array_equal(answers.predicted, probabilities.argmax(1))
    np.testing.assert_allclose(answers.confidence, probabilities.max(1), atol=1e-6)
    for probability, label, predicted, rival in zip(
        probabilities, labels, answers.predicted, answers.rivals, strict=True
    ):
        assert rival == (np.argsort(-probability)[1] if predicted == label else label)
    first, second = examples_at(predictor, split, answers, np.array([5, 2]))
    np.testing.assert_array_equal(first.pixels, pixels[5])
    np.testing.assert_array_equal(second.pixels, pixels[2])
    assert (first.name, first.label, first.saliency.shape) == ("cat/5.png", "c", (16, 16))
    assert examples_at(predictor, split, answers, np.array([], int)) == []
    two = tiny_mixer(classes=2)
    two.evaluation_crop = "resize"
    with pytest.raises(ValueError, match="Labels run from 0 to 2, but the model has 2 classes"):
        answers_of(Predictor.of(two), split)
