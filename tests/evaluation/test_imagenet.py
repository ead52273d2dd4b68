import dataclasses
import json
import re

import numpy as np
import pytest
from tfds_files import write_tfds

from keras_mixer.data.image_files import unusable_examples
from keras_mixer.evaluation import imagenet


class Fixed:
    """A classifier that predicts the value of the first pixel."""

    output_shape = (None, 1000)

    def predict_on_batch(self, images):
        return np.eye(1000)[np.asarray(images)[:, 0, 0, 0].astype(int)]


def picture(value):
    return np.full((8, 8, 3), value, np.uint8)


SETS = [[3, 5], [], [7], [10, 200, 4], [0]]
GUESSES = [5, 1, 6, 200, 0]  # correct, left out, wrong, correct, correct


def check(split):
    from keras_mixer.data.batches import evaluation_batches

    result = imagenet.evaluate_real(Fixed(), evaluation_batches(split, image_size=(8, 8), batch_size=2, crop="resize"))
    assert (result.examples, result.left_out, result.top1) == (4, 1, 0.75)


def test_real_counts_nan_as_wrong_and_ties_for_the_lower_class():
    outputs = np.zeros((5, 1000))
    outputs[1] = np.nan
    outputs[2, 0], outputs[2, 999] = np.nan, 1
    outputs[3, [4, 200]] = 1
    allowed = np.zeros((5, 1000), bool)
    for image, labels in enumerate([[0], [0, 999], [0, 999], [200], []]):
        allowed[image, labels] = True

    class Given:
        def predict_on_batch(self, images):
            return outputs[np.asarray(images)[:, 0]]

    for size in (1, 2, 5):
        images = np.arange(5)[:, None]
        result = imagenet.evaluate_real(
            Given(), [(images[i : i + size], allowed[i : i + size]) for i in range(0, 5, size)]
        )
        assert (result.examples, result.left_out, result.top1) == (4, 1, 0.5)
        assert result.non_finite == 2
        assert len(result.remarks()) == 1


def test_real_from_tfds(tmp_path):
    examples = [
        {"image": picture(guess), "original_label": 0, "real_label": labels, "file_name": f"{i}"}
        for i, (guess, labels) in enumerate(zip(GUESSES, SETS, strict=True))
    ]
    lossless = _png_features("imagenet2012_real", tmp_path)
    write_tfds(tmp_path, "imagenet2012_real", {"validation": examples}, lossless)
    check(imagenet.real_split(tmp_path))


def test_a_damaged_image_is_named_whatever_its_labels(tmp_path):
    example = {"image": picture(3), "original_label": 0, "real_label": [3], "file_name": "1"}
    write_tfds(
        tmp_path, "imagenet2012_real", {"validation": [example] * 2}, _png_features("imagenet2012_real", tmp_path)
    )
    prepared = imagenet.real_split(tmp_path)
    elements = prepared.elements.enumerate().map(lambda i, one: one | {"image": one["image"] if i == 0 else "damaged"})
    prepared = dataclasses.replace(prepared, elements=elements)
    (reason,) = unusable_examples(prepared).values()
    assert re.search("image 1 of validation.*(not an image|cannot identify)", str(reason))


def test_real_from_a_label_file_and_tfds_images(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(SETS))
    order = [2, 0, 4, 1, 3]
    examples = [
        {"image": picture(GUESSES[i]), "label": 0, "file_name": f"ILSVRC2012_val_{i + 1:08}.JPEG"} for i in order
    ]
    write_tfds(tmp_path, "imagenet2012", {"validation": examples}, _png_features("imagenet2012", tmp_path))
    check(imagenet.real_split(tmp_path, tmp_path / "real.json"))
    (tmp_path / "real.json").write_text("[[1], [2]]")
    with pytest.raises(ValueError, match="2 entries for 5 validation images"):
        imagenet.real_split(tmp_path, tmp_path / "real.json")


def _png_features(name, data_dir):
    import tensorflow_datasets as tfds

    features = dict(tfds.builder(name, data_dir=data_dir).info.features)
    return tfds.features.FeaturesDict(features | {"image": tfds.features.Image(encoding_format="png")})


def test_what_is_absent_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"imagenet_v2/topimages is not prepared: tfds build imagenet_v2/topimages"
    ):
        imagenet.v2_split("topimages", tmp_path)
    with pytest.raises(FileNotFoundError, match="by hand: manual_dir should contain"):
        imagenet.real_split(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no label file .*reassessed-imagenet"):
        imagenet.real_split(tmp_path, tmp_path / "real.json")
    (tmp_path / "real.json").write_text("[[1], [1000]]")
    with pytest.raises(ValueError, match="above 999"):
        imagenet.real_split(tmp_path, tmp_path / "real.json")


def test_sets_without_any_label_are_refused(rng):
    batch = (np.zeros((2, 8, 8, 3)), np.zeros((2, 1000), bool))
    with pytest.raises(ValueError, match="No image"):
        imagenet.evaluate_real(Fixed(), [batch])
