"""From a split to batches: shuffle, crop, augment, batch, mix. Every random choice follows from (seed, position)."""

import tensorflow as tf

from keras_mixer.data.augment import mixup, rand_augment
from keras_mixer.data.preprocessing import evaluation_image, training_image
from keras_mixer.data.sources import Split

SHUFFLE_STREAM, CROP_STREAM, AUGMENT_STREAM, MIXUP_STREAM = range(4)  # independent random streams of one position


def training_batches(
    split: Split,
    *,
    classes,
    image_size,
    batch_size,
    seed,
    start_step=0,
    shuffle_buffer=250_000,
    crop_area=(0.05, 1.0),
    crop_aspect=(3 / 4, 4 / 3),
    flip=True,
    randaugment_num_ops=0,
    randaugment_level=0.0,
    randaugment_operations=None,
    randaugment_fill=128,
    mixup_alpha=0.0,
) -> tf.data.Dataset:
    """Endless training batches `(images (B, h, w, 3) float32 in [0, 255], labels (B, classes) float32 one-hot)`.

    Batches run on over the end of an epoch, so all have the same size and no example is left out for good.

    Args:
        split: where the examples come from.
        classes: number of classes.
        image_size: `(height, width)` in pixels.
        batch_size: examples in a batch.
        seed: the same seed gives the same batches, whatever the number of threads.
        start_step: batches to leave out at the beginning; the stream goes on as if they had been drawn.
        shuffle_buffer: examples held for shuffling (encoded, or paths of files).
        crop_area: smallest and largest share of the image that the random crop covers.
        crop_aspect: smallest and largest width / height of the crop.
        flip: mirror half of the images left-right.
        randaugment_num_ops: RandAugment operations on each image; 0 leaves it out.
        randaugment_level: their strength, 0 to 20.
        randaugment_operations: their names, None for all sixteen.
        randaugment_fill: grey value that appears where an image was moved away.
        mixup_alpha: Beta parameter of mixup; 0 leaves it out.
    """

    def augmented(position, element):
        example = split.read(element)
        image = training_image(
            example["image"], image_size, _seed(seed, CROP_STREAM, position), crop_area, crop_aspect, flip
        )
        if randaugment_num_ops:
            image = rand_augment(
                image,
                _seed(seed, AUGMENT_STREAM, position),
                randaugment_num_ops,
                randaugment_level,
                randaugment_operations,
                randaugment_fill,
            )
        return image, tf.one_hot(example["label"], classes)

    def mixed(position, batch):
        images, labels = batch
        if mixup_alpha:
            images, labels = mixup(images, labels, _seed(seed, MIXUP_STREAM, position), mixup_alpha)
        return tf.cast(images, tf.float32), labels

    def one_epoch(epoch):
        return _shuffled(split.elements, min(split.size, shuffle_buffer), _seed(seed, SHUFFLE_STREAM, epoch))

    start = start_step * batch_size
    epoch, seen = divmod(start, split.size)
    examples = tf.data.Dataset.counter(epoch).flat_map(one_epoch).skip(seen).enumerate(start)
    batches = examples.map(augmented, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    batches = batches.enumerate(start_step).map(mixed, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def evaluation_batches(split: Split, *, image_size, batch_size, crop) -> tf.data.Dataset:
    """Each example once, in order: `(images (B, h, w, 3) uint8, labels (B,) int64)`; the last batch may be smaller.

    Args:
        split: where the examples come from.
        image_size: `(height, width)` in pixels.
        batch_size: examples in a batch.
        crop: one of `keras_mixer.data.preprocessing.EVALUATION_CROPS`.
    """

    def prepared(element):
        example = split.read(element)
        return evaluation_image(example["image"], image_size, crop), example["label"]

    batches = split.elements.map(prepared, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
    # A file reader does not know its length, and Keras then takes a step that is not there.
    known = tf.data.experimental.assert_cardinality(-(-split.size // batch_size))
    return batches.apply(known).prefetch(tf.data.AUTOTUNE)


def _shuffled(dataset, buffer_size, seed):
    """`dataset.shuffle` whose order follows from `seed` (2,) alone.

    The method's order also depends on TensorFlow's global seed and on how many iterators were opened before (Keras
    opens one in secret under a strategy), and with a global seed of 0 it takes no tensor.
    """
    leaves = tf.nest.flatten(dataset.element_spec)
    variant = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=buffer_size,
        seed=tf.cast(seed[0], tf.int64),
        seed2=tf.cast(seed[1], tf.int64),
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        reshuffle_each_iteration=False,
        output_types=[leaf.dtype for leaf in leaves],
        output_shapes=[leaf.shape for leaf in leaves],
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def _seed(seed, stream, position):
    """`() int64 -> (2,) int32`: the random seed of one position in one stream."""
    position = tf.cast(position, tf.int64)
    low, high = tf.cast(position % 2**31, tf.int32), tf.cast(position // 2**31, tf.int32)
    return tf.random.fold_in(tf.random.fold_in(tf.stack([seed, stream]), low), high)
