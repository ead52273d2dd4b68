import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfds_files import write_tfds

from keras_mixer.data.batches import evaluation_batches
from keras_mixer.evaluation import imagenet

SETS, V2 = [[3, 5], [], [7], [10, 200, 4], [0]], "V2 topimages"
GUESSES = [5, 1, 6, 200, 0]  # correct, left out, wrong, correct, correct


class FirstPixel:
    def predict_on_batch(self, images):
        return np.eye(1000)[np.asarray(images)[:, 0, 0, 0].astype(int)]


def prepare(folder, name, split, numbers, **features):
    """Writes a data set of images of one value; the features are functions of an image's number."""
    known = dict(tfds.builder(name, data_dir=folder).info.features)
    lossless = tfds.features.FeaturesDict(known | {"image": tfds.features.Image(encoding_format="png")})
    examples = [
        {"image": np.full((8, 8, 3), GUESSES[i], np.uint8)} | {key: value(i) for key, value in features.items()}
        for i in numbers
    ]
    write_tfds(folder, name, {split: examples}, lossless)


def measured(split):
    batches = evaluation_batches(split, image_size=(8, 8), batch_size=2, crop="resize")
    return imagenet.multi_label_accuracy(FirstPixel(), batches)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_real_counts_nan_as_wrong_and_ties_for_the_lower_class(size):
    outputs, allowed = np.zeros((5, 1000)), np.zeros((5, 1000), bool)
    outputs[1] = np.nan
    outputs[2, 0], outputs[2, 999] = np.nan, 1
    outputs[3, [4, 200]] = 1
    for image, labels in enumerate([[0], [0, 999], [0, 999], [200], []]):
        allowed[image, labels] = True

    class Given:
        def predict_on_batch(self, images):
            return outputs[images[:, 0]]

    images = np.arange(5)[:, None]
    batches = [(images[i : i + size], allowed[i : i + size]) for i in range(0, 5, size)]
    with pytest.warns(UserWarning, match="2 of 5 images have outputs that are not finite"):
        assert imagenet.multi_label_accuracy(Given(), batches) == (0.5, 4)
    with pytest.raises(ValueError, match="No image of the data set has a label"):
        imagenet.multi_label_accuracy(Given(), [(images, np.zeros_like(allowed))])


def test_real_from_tfds_and_a_damaged_image_is_named_whatever_its_labels(tmp_path):
    given = {"original_label": lambda i: 0, "real_label": SETS.__getitem__, "file_name": str}
    prepare(tmp_path, "imagenet2012_real", "validation", range(5), **given)
    split = imagenet.split_of("ReaL", tmp_path)
    assert measured(split) == (0.75, 4)
    elements = split.elements.enumerate().map(lambda i, one: one | {"image": one["image"] if i != 1 else "damaged"})
    (reason,) = dataclasses.replace(split, elements=elements).unusable().values()
    assert "image 1 of validation" in str(reason)


def test_validation_and_v2_from_tfds(tmp_path):
    prepare(tmp_path, "imagenet2012", "validation", [2, 0, 4, 1, 3], label=GUESSES.__getitem__, file_name=str)
    prepare(tmp_path, imagenet.SETS[V2][0], "test", range(5), label=GUESSES.__getitem__)
    for name, labels in (("ImageNet", [6, 5, 0, 1, 200]), (V2, GUESSES)):
        split = imagenet.split_of(name, tmp_path)
        assert [np.flatnonzero(split.read(element)["label"]).tolist() for element in split.elements] == [
            [label] for label in labels
        ]


def test_what_is_absent_is_named_with_the_way_to_get_it(tmp_path):
    FirstPixel.output_shape, FirstPixel.class_names = (None, 1000), tuple(map(str, range(1, 1001)))
    for open_split, message in (
        (lambda: imagenet.split_of(V2, tmp_path), f"imagenet_v2/.* is not in {tmp_path}"),
        (lambda: imagenet.split_of("ReaL", tmp_path), "imagenet2012_real/.* is not in .* Prepare it by tfds build"),
        (lambda: imagenet.check_classes(FirstPixel()), r"1000 classes of ImageNet-1k in order, got \('1', '2'"),
    ):
        with pytest.raises((FileNotFoundError, ValueError), match=message):
            open_split()
