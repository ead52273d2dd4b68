import dataclasses
import json
import re

import numpy as np
import pytest
from image_files import encode, turned
from tfds_files import write_tfds

from keras_mixer.data.decode import decode_image
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


def test_real_from_a_label_file_goes_by_the_number_in_the_file_name(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(SETS))
    for i, guess in enumerate(GUESSES):
        folder = tmp_path / "images" / f"n{9 - i}"  # not the order of the class folders
        folder.mkdir(parents=True)
        (folder / f"ILSVRC2012_val_{i + 1:08}.JPEG").write_bytes(encode(picture(guess), "PNG"))
    check(imagenet.real_split(label_file=tmp_path / "real.json", images=tmp_path / "images"))


def test_a_damaged_image_is_named_whatever_its_labels(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps([[1]] * 1002))
    (tmp_path / "ILSVRC2012_val_00001001.JPEG").write_bytes(b"damaged")
    (tmp_path / "ILSVRC2012_val_00001002.JPEG").write_bytes(encode(picture(1), "PNG"))
    of_files = imagenet.real_split(label_file=tmp_path / "real.json", images=tmp_path)
    example = {"image": picture(3), "original_label": 0, "real_label": [3], "file_name": "1"}
    write_tfds(
        tmp_path, "imagenet2012_real", {"validation": [example] * 2}, _png_features("imagenet2012_real", tmp_path)
    )
    prepared = imagenet.real_split(tmp_path)
    elements = prepared.elements.enumerate().map(lambda i, one: one | {"image": one["image"] if i == 0 else "damaged"})
    prepared = dataclasses.replace(prepared, elements=elements)
    for split, name in ((of_files, "00001001.JPEG"), (prepared, "image 1 of validation")):
        (reason,) = unusable_examples(split).values()
        assert name in str(reason)
        assert re.search("not an image|cannot identify", str(reason))


def test_real_images_need_labels(tmp_path):
    with pytest.raises(ValueError, match=r"Pass the authors' real\.json too, as --real-labels"):
        imagenet.real_split(tmp_path, images=tmp_path)


def test_real_from_a_label_file_and_tfds_images(tmp_path):
    (tmp_path / "real.json").write_text(json.dumps(SETS))
    order = [2, 0, 4, 1, 3]
    examples = [
        {"image": picture(GUESSES[i]), "label": 0, "file_name": f"ILSVRC2012_val_{i + 1:08}.JPEG"} for i in order
    ]
    write_tfds(tmp_path, "imagenet2012", {"validation": examples}, _png_features("imagenet2012", tmp_path))
    check(imagenet.real_split(tmp_path, tmp_path / "real.json"))


def _png_features(name, data_dir):
    import tensorflow_datasets as tfds

    features = dict(tfds.builder(name, data_dir=data_dir).info.features)
    return tfds.features.FeaturesDict(features | {"image": tfds.features.Image(encoding_format="png")})


def test_v2_folders_are_class_numbers(tmp_path):
    for label in (2, 10, 999):
        (tmp_path / str(label)).mkdir()
        (tmp_path / str(label) / f"{label}x.jpeg").write_bytes(turned(np.zeros((9, 7, 3), np.uint8)))
    split = imagenet.v2_split(folder=tmp_path)
    sides = {decode_image(split.read(element)["image"]).shape for element in split.elements}
    assert sides == {(9, 7, 3)}  # as stored, like the published accuracies
    assert sorted(int(element["label"]) for element in split.elements) == [2, 10, 999]
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "n01440764" / "a.jpeg").write_bytes(b"")
    with pytest.raises(ValueError, match="folders 0 to 999"):
        imagenet.v2_split(folder=tmp_path)


def test_what_is_absent_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"imagenet_v2/topimages is not prepared: tfds build imagenet_v2/topimages"
    ):
        imagenet.v2_split("topimages", tmp_path)
    with pytest.raises(FileNotFoundError, match="by hand: manual_dir should contain"):
        imagenet.real_split(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no label file .*reassessed-imagenet"):
        imagenet.real_split(label_file=tmp_path / "real.json", images=tmp_path)
    (tmp_path / "real.json").write_text("[[1], [2]]")
    with pytest.raises(FileNotFoundError, match="no file ILSVRC2012_val"):
        imagenet.real_split(label_file=tmp_path / "real.json", images=tmp_path)
    (tmp_path / "ILSVRC2012_val_00000003.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match="2 entries, but there is a validation image number 3"):
        imagenet.real_split(label_file=tmp_path / "real.json", images=tmp_path)
    (tmp_path / "real.json").write_text("[[1], [1000]]")
    with pytest.raises(ValueError, match="above 999"):
        imagenet.real_split(label_file=tmp_path / "real.json", images=tmp_path)


def test_sets_without_any_label_are_refused(rng):
    batch = (np.zeros((2, 8, 8, 3)), np.zeros((2, 1000), bool))
    with pytest.raises(ValueError, match="No image"):
        imagenet.evaluate_real(Fixed(), [batch])
