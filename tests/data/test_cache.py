import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, photographs

from keras_mixer.data.cache import DecodedImages
from keras_mixer.data.pipeline import training_batches
from keras_mixer.data.preprocessing import decode_image
from keras_mixer.data.settings import Augmentation
from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import Split, file_split

OPTIONS = {"classes": 3, "image_size": (24, 24), "batch_size": 4, "seed": 1}
SIDES = [(40, 60), (52, 44), (64, 64), (30, 50), (48, 40), (36, 36), (44, 60)]


@pytest.fixture(scope="module")
def jpegs():
    photograph = photographs()[0]
    return [encode(photograph[i : i + h, 3 * i : 3 * i + w], "JPEG") for i, (h, w) in enumerate(SIDES)]


@pytest.fixture(scope="module")
def split(jpegs):
    elements = tf.data.Dataset.from_tensor_slices({"image": jpegs, "label": np.arange(7, dtype=np.int64) % 3})
    return Split(7, elements, read=lambda element: element)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def test_images_are_read_once_and_only_as_many_are_kept_as_fit(jpegs):
    sizes = [3 * h * w for h, w in SIDES]
    kept, reads = DecodedImages(sum(sizes[:3]) + 1), []

    def image(number):
        def read():
            reads.append(number)
            return jpegs[number]

        return kept.get(tf.constant(number, tf.int64), read)

    for _ in range(2):
        for number in range(5):
            np.testing.assert_array_equal(image(number), decode_image(jpegs[number]))
    assert reads == [0, 1, 2, 3, 4, 3, 4]
    assert int(kept.used) == sum(sizes[:3])


@pytest.mark.parametrize("cache_bytes", [20_000, 10**9])
def test_batches_do_not_depend_on_how_much_is_kept(split, cache_bytes):
    one, other = (take(training_batches(split, cache_bytes=kept, **OPTIONS), 9) for kept in (cache_bytes, 1))
    for batch, other_batch in zip(one, other, strict=True):
        np.testing.assert_array_equal(batch[0], other_batch[0])
        np.testing.assert_array_equal(batch[1], other_batch[1])


def test_kept_files_are_not_read_again(tmp_path, jpegs):
    files = [tmp_path / f"{i}.jpg" for i in range(7)]
    for file, content in zip(files, jpegs, strict=True):
        file.write_bytes(content)
    batches = iter(training_batches(file_split(files, [0, 1, 2, 0, 1, 2, 0]), cache_bytes=10**9, **OPTIONS))
    for _ in range(4):  # two epochs
        next(batches)
    for file in files:
        file.unlink()
    for _ in range(40):
        next(batches)


def test_lossless_images_give_the_very_same_batches_and_jpegs_almost(split):
    digits = load_source("digits").train
    augmentation = Augmentation(randaugment_num_ops=2, randaugment_level=9.0)
    options = OPTIONS | {"classes": 10, "augmentation": augmentation, "start_step": 350}
    for kept, plain in zip(
        *(take(training_batches(digits, cache_bytes=n, **options), 20) for n in (10**8, 0)), strict=True
    ):
        np.testing.assert_array_equal(kept[0], plain[0])
    for kept, plain in zip(
        *(take(training_batches(split, cache_bytes=n, **OPTIONS), 9) for n in (10**8, 0)), strict=True
    ):
        assert np.abs(kept[0] - plain[0]).mean() < 1
