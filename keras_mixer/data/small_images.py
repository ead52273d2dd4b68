"""Training images of a small data set: decoded once, then cropped, flipped and moved a thousand at a time.

Starting an operation of TensorFlow takes longer than its work on an image of 28 x 28 px. The images are those of
`training_image` and `rand_augment` bit for bit, so this is only a matter of speed.

Source: ours; `resize_bilinear_op.cc` of TensorFlow for the arithmetic of a crop.
"""

import dataclasses
import weakref

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import UPRIGHT, decode_image
from keras_mixer.data.draws import Streams, distorted_boxes, fold_in, split, uniform
from keras_mixer.data.moves import MOVES, move, moves
from keras_mixer.data.parallel import PARALLEL_CALLS, as_written, prefetch
from keras_mixer.data.settings import RANDAUGMENT_OPERATIONS, Augmentation
from keras_mixer.data.splits import Split

GROUP = 1024  # images prepared together
LARGEST_SIDE = 64  # pixels, of the images and of the model's input; larger ones are as fast one by one
MAX_BYTES = 2**28  # of decoded images
_decoded: weakref.WeakKeyDictionary[Split, "SmallImages | None"] = weakref.WeakKeyDictionary()  # for runs in parts


def small_images(part: Split, image_size, augmentation: Augmentation) -> "SmallImages | None":
    """The decoded images of a split; None if they have to be prepared one by one.

    That is so if they are large, of different sizes, too many, changing, or JPEGs (a JPEG is decoded only inside its
    crop, which may change the last column), or for operations of RandAugment that do more than
    move pixels.
    """
    operations = augmentation.randaugment_operations or RANDAUGMENT_OPERATIONS
    moving_only = not augmentation.randaugment_num_ops or set(operations) <= set(MOVES)
    if part.changes or max(image_size) > LARGEST_SIDE or not moving_only:
        return None
    if part not in _decoded:
        _decoded[part] = _decode(part)
    return _decoded[part]


def _decode(part):
    @as_written
    def decoded(element):
        if part.pixels is not None:
            return part.pixels(element), element["label"], False
        example = part.read(element)
        image = decode_image(example["image"], example.get("orientation", UPRIGHT))
        return image, example["label"], tf.io.is_jpeg(example["image"])

    examples = part.elements.map(decoded, num_parallel_calls=PARALLEL_CALLS)
    try:
        for image, _, is_jpeg in prefetch(examples.take(1)).as_numpy_iterator():
            if is_jpeg or max(image.shape) > LARGEST_SIDE or image.size * part.size > MAX_BYTES:
                return None
        groups = prefetch(examples.batch(GROUP)).as_numpy_iterator()
        images, labels, are_jpeg = map(np.concatenate, zip(*groups, strict=True))
    except tf.errors.OpError:  # sizes differ, or an image is damaged, which is reported when it is reached
        return None
    if are_jpeg.any():
        return None
    grey = (images == images[..., :1]).all()
    with tf.device("CPU:0"):
        return SmallImages(tf.constant(images[..., :1] if grey else images), tf.constant(labels))


@dataclasses.dataclass(frozen=True)
class SmallImages:
    """All images of a split, which have one size.

    Attributes:
        images: `(N, H, W, C) uint8`; C is 1 if all of them are grey.
        labels: `(N,) int64`.
    """

    images: tf.Tensor
    labels: tf.Tensor

    def prepare(self, numbers, crop_seeds, augment_seeds, image_size, augmentation: Augmentation):
        """`(n,) int64 -> (n, h, w, 3) uint8`: random changes of the images with these numbers.

        Args:
            numbers: of the images in the split.
            crop_seeds: `(n, 2) int32`, as the `seed` of `training_image`.
            augment_seeds: `(n, 2) int32`, as the `seed` of `rand_augment`.
            image_size: `(height, width)` of the result.
            augmentation: the kind of changes.
        """
        sides, options = self.images.shape[1:3], augmentation

        def draw(crop_seeds, augment_seeds):
            windows = _windows(crop_seeds, sides, options)
            rows, below = _sampling(windows[:, 0], windows[:, 2], image_size[0])
            columns, right = _sampling(windows[:, 1], windows[:, 3], image_size[1])
            if options.flip:
                flipped = _flips(crop_seeds)
                columns[flipped], right[flipped] = columns[flipped, ::-1], right[flipped, ::-1]
            return rows, below, columns, right, _choices(augment_seeds, options)

        types = (tf.int32, tf.float32, tf.int32, tf.float32, tf.int32)
        rows, below, columns, right, choices = tf.numpy_function(draw, [crop_seeds, augment_seeds], types)
        height, width = image_size
        rows, columns = tf.ensure_shape(rows, (None, height, 2)), tf.ensure_shape(columns, (None, width, 2))
        below, right = tf.ensure_shape(below, (None, height)), tf.ensure_shape(right, (None, width))
        images = self._sampled(numbers, rows, below, columns, right)
        if options.randaugment_num_ops:
            table = moves(options.randaugment_operations, options.randaugment_level, image_size)
            choices = tf.ensure_shape(choices, (None, options.randaugment_num_ops))
            for i in range(options.randaugment_num_ops):
                images = move(images, options.randaugment_fill, tf.gather(table, choices[:, i]))
        return tf.broadcast_to(images, tf.concat([tf.shape(images)[:3], [3]], 0))

    def _sampled(self, numbers, rows, below, columns, right):
        """`(n, h, w, C) uint8`: bilinear samples, in the kernel's order of operations: along a row, then down."""
        _, image_height, image_width, channels = self.images.shape
        pixels = tf.reshape(self.images, (-1, channels))
        start = tf.cast(numbers, tf.int32)[:, None] * image_height

        def along_rows(row):
            first = ((start + row) * image_width)[:, :, None]  # (n, h, 1)
            one, next_one = (
                tf.cast(tf.gather(pixels, first + columns[:, None, :, side]), tf.float32) for side in (0, 1)
            )
            return one + (next_one - one) * right[:, None, :, None]

        top, bottom = along_rows(rows[..., 0]), along_rows(rows[..., 1])
        return tf.cast(top + (bottom - top) * below[:, :, None, None], tf.uint8)


def _windows(seeds, sides, augmentation):
    """`(n, 2) int32 -> (n, 4) int32`: top, left, height, width, as `_crop_window`."""
    if augmentation.crop_aspect is not None:
        return distorted_boxes(seeds, sides, augmentation.crop_area, augmentation.crop_aspect)
    drawn = uniform(Streams(seeds).words()[:, :3])
    least, most = augmentation.crop_area
    area = np.float32(least) + drawn[:, :1] * np.float32(most - least)
    size = np.maximum(np.rint(np.sqrt(area) * np.array(sides, np.float32)).astype(np.int32), 1)
    places = (np.array(sides, np.int32) - size + 1).astype(np.float32)
    return np.concatenate([(drawn[:, 1:] * places).astype(np.int32), size], 1)


def _flips(seeds):
    """`(n, 2) int32 -> (n,) bool`: whether to flip, as `tf.image.stateless_random_flip_left_right`."""
    return uniform(Streams(seeds + np.array([0, 1], np.int32)).words()[:, 0]) < 0.5


def _sampling(first, size, count):
    """`(n,), (n,) -> (n, count, 2) int32, (n, count) float32`: two pixels for each sample, and the second one's weight.

    As TensorFlow's bilinear resize of a crop with half-pixel centres.
    """
    scale = size.astype(np.float32)[:, None] / np.float32(count)
    place = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(place)
    lower = np.maximum(floor, 0)
    upper = np.minimum(np.ceil(place), size.astype(np.float32)[:, None] - 1)
    pixels = np.stack([lower, upper], 2).astype(np.int32) + first[:, None, None]
    return pixels, place - floor


def _choices(seeds, augmentation):
    """`(n, 2) int32 -> (n, num_ops) int32`: rows of the table of `moves`, as `rand_augment` draws them."""
    chosen = np.zeros((len(seeds), augmentation.randaugment_num_ops), np.int32)
    for i in range(augmentation.randaugment_num_ops):
        for_choice, for_sign = split(fold_in(seeds, i))
        operation = Streams(for_choice).words()[:, 0] % np.uint32(len(augmentation.randaugment_operations))
        positive = uniform(Streams(for_sign).words()[:, 0]) >= 0.5
        chosen[:, i] = 2 * operation.astype(np.int32) + positive
    return chosen
