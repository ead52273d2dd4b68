"""From a split to batches: shuffle, crop, augment, batch, mix. Every random choice depends only on (seed, position)."""

import functools
import math

import numpy as np
import tensorflow as tf

from keras_mixer.data.batch_mixing import cutmix, mixup
from keras_mixer.data.decode import UPRIGHT, evaluation_image, training_image
from keras_mixer.data.draws import fold_in
from keras_mixer.data.parallel import BATCHES_AHEAD, PARALLEL_CALLS, as_written, prefetch
from keras_mixer.data.randaugment import rand_augment
from keras_mixer.data.settings import Augmentation
from keras_mixer.data.small_images import GROUP, small_images
from keras_mixer.data.splits import Split

SHUFFLE_STREAM, CROP_STREAM, AUGMENT_STREAM, MIXUP_STREAM, CUTMIX_STREAM = range(5)  # independent random streams
MAX_CACHED_BYTES = 256 * 2**20  # 1,783 images of 224 x 224


def training_batches(
    split: Split,
    *,
    classes,
    image_size,
    batch_size,
    seed,
    start_step=0,
    shuffle_buffer=250_000,
    augmentation=Augmentation(),  # noqa: B008 - frozen
    class_weights=None,
    shards=1,
    process=0,
    processes=1,
) -> tf.data.Dataset:
    """Endless training batches `(images (B, h, w, 3) float32 in [0, 255], labels (B, classes) float32 one-hot)`.

    Batches cross epoch boundaries, so all have the same size and no example is dropped. With class weights each batch
    has a third part, `(B,) float32`: the weight of each example.

    Args:
        split: the examples.
        classes: number of classes.
        image_size: `(height, width)` in pixels.
        batch_size: examples per batch, over all processes.
        seed: the same seed gives the same batches for any number of threads or processes.
        start_step: number of batches to skip at the start, as if they had been drawn.
        shuffle_buffer: size of the shuffle buffer in examples (encoded images or file paths).
        augmentation: random changes to the images.
        class_weights: `(classes,)`, the weight of an example of each class; mixed labels are weighted in proportion.
        shards: number of parts of the data that are shuffled separately and fill separate rows of a batch.
        process: index of this process, which reads and returns only its own shards.
        processes: number of processes that share a batch; a divisor of `shards`.
    """
    rows = batch_size // shards
    own = range(process * shards // processes, (process + 1) * shards // processes)
    cropping = {
        "image_size": image_size,
        "area": augmentation.crop_area,
        "aspect": augmentation.crop_aspect,
        "flip": augmentation.flip,
    }

    def stream(shard):
        part = split.shard(shards, shard)
        small = small_images(part, image_size, augmentation)
        elements = part.elements if small is None else tf.data.Dataset.range(part.size)
        buffer = min(part.size, max(shuffle_buffer // shards, 1))

        @as_written
        def one_epoch(epoch):
            return _shuffled(elements, buffer, _seed(seed, SHUFFLE_STREAM, epoch * shards + shard))

        def position_of(drawn):  # in the stream of all batches
            return drawn // rows * batch_size + shard * rows + drawn % rows

        @as_written
        def augmented(drawn, element):
            position = position_of(drawn)
            example = part.read(element)
            crop_seed = _seed(seed, CROP_STREAM, position)
            orientation = example.get("orientation", UPRIGHT)
            image = training_image(example["image"], seed=crop_seed, orientation=orientation, **cropping)
            if augmentation.randaugment_num_ops:
                image = rand_augment(
                    image,
                    _seed(seed, AUGMENT_STREAM, position),
                    augmentation.randaugment_num_ops,
                    augmentation.randaugment_level,
                    augmentation.randaugment_operations,
                    augmentation.randaugment_fill,
                )
            return image, tf.one_hot(example["label"], classes)

        @as_written
        def augmented_group(small, drawn, numbers):
            positions = position_of(drawn)
            crop_seeds, augment_seeds = (_seeds(seed, stream, positions) for stream in (CROP_STREAM, AUGMENT_STREAM))
            images = small.prepare(numbers, crop_seeds, augment_seeds, image_size, augmentation)
            return images, tf.one_hot(tf.gather(small.labels, numbers), classes)

        start = start_step * rows
        epoch, seen = divmod(start, part.size)
        examples = tf.data.Dataset.counter(epoch).flat_map(one_epoch).skip(seen).enumerate(start)
        if small is None:
            batches = examples.map(augmented, num_parallel_calls=PARALLEL_CALLS).batch(rows, drop_remainder=True)
        else:
            groups = examples.batch(max(GROUP // rows, 1) * rows)
            group = functools.partial(augmented_group, small)
            batches = groups.map(group, num_parallel_calls=PARALLEL_CALLS).rebatch(rows, drop_remainder=True)
        return batches.enumerate(start_step).map(mixed, num_parallel_calls=BATCHES_AHEAD)

    @as_written
    def mixed(step, batch):
        images, labels = _mixed(batch, seed, step, augmentation)
        if class_weights is None:
            return images, labels
        return images, labels, tf.linalg.matvec(labels, tf.constant(class_weights, tf.float32))

    batches = stream(own[0])
    if len(own) > 1:
        together = tf.data.Dataset.zip(*[stream(shard) for shard in own])
        batches = together.map(lambda *parts: tuple(tf.concat(tensors, 0) for tensors in zip(*parts, strict=True)))
    return prefetch(batches)


def evaluation_batches(split: Split, *, image_size, batch_size, crop) -> tf.data.Dataset:
    """Each example once, in order: `(images (B, h, w, 3) uint8, labels (B,) int64)`; the last batch may be smaller.

    Args:
        split: the examples.
        image_size: `(height, width)` in pixels.
        batch_size: examples per batch.
        crop: one of `keras_mixer.data.settings.EVALUATION_CROPS`.
    """

    @as_written
    def prepared(element):
        example = split.read(element)
        return _evaluation_image(example, image_size, crop), example["label"]

    batches = split.elements.map(prepared, num_parallel_calls=PARALLEL_CALLS).batch(batch_size)
    # File readers have unknown cardinality, and Keras 3.15 then runs one step too many.
    known = tf.data.experimental.assert_cardinality(-(-split.size // batch_size))
    return prefetch(batches.apply(known))


def padded_batches(split: Split, *, image_size, batch_size, crop, classes, process=0, processes=1) -> tf.data.Dataset:
    """Each example once, in batches of equal size: `(images uint8, labels one-hot, weights (B,) float32)`.

    The last batch is padded with black images of weight 0, because multiple devices cannot share a smaller one. The
    weights make a mean over all rows, including the padding, equal to the mean over the examples. Up to
    `MAX_CACHED_BYTES` of pixels are cached, because Keras reads these batches after every epoch.

    Args:
        split: the examples.
        image_size: `(height, width)` in pixels.
        batch_size: examples per batch, over all processes.
        crop: one of `keras_mixer.data.settings.EVALUATION_CROPS`.
        classes: number of classes.
        process: index of this process, which reads and returns only its own rows of a batch.
        processes: number of processes that share a batch; a divisor of `batch_size`.
    """
    count, rows = -(-split.size // batch_size), batch_size // processes
    full_batches, rest = divmod(split.size, batch_size)
    own = full_batches * rows + min(max(rest - process * rows, 0), rows)
    weight = count * batch_size / split.size

    @as_written
    def prepared(position, element):
        example = split.read(element)
        image = tf.ensure_shape(_evaluation_image(example, image_size, crop), (*image_size, 3))
        return image, tf.one_hot(example["label"], classes), tf.constant(weight, tf.float32)

    examples = split.elements.enumerate()
    if processes > 1:
        examples = examples.filter(lambda position, element: position % batch_size // rows == process)
    padding = (tf.zeros((*image_size, 3), tf.uint8), tf.zeros(classes), tf.constant(0.0))
    padded = examples.map(prepared, num_parallel_calls=PARALLEL_CALLS).concatenate(
        tf.data.Dataset.from_tensors(padding).repeat(count * rows - own)
    )
    batches = padded.batch(rows, drop_remainder=True)
    if count * rows * math.prod(image_size) * 3 <= MAX_CACHED_BYTES:
        batches = batches.cache()
    return prefetch(batches.apply(tf.data.experimental.assert_cardinality(count)))


def _evaluation_image(example, image_size, crop):
    return evaluation_image(example["image"], image_size, crop, example.get("orientation", UPRIGHT))


def _mixed(batch, seed, step, augmentation):
    """`(B, h, w, 3), (B, classes) -> (B, h, w, 3) float32, (B, classes)`: mixup, CutMix, either or neither."""
    images, labels = batch

    def by_mixup():
        return mixup(images, labels, _seed(seed, MIXUP_STREAM, step), augmentation.mixup_alpha)

    def by_cutmix():
        return cutmix(images, labels, _seed(seed, CUTMIX_STREAM, step), augmentation.cutmix_alpha)

    if augmentation.mixup_alpha and augmentation.cutmix_alpha:
        choice = tf.random.stateless_uniform((), tf.random.fold_in(_seed(seed, CUTMIX_STREAM, step), 1))
        return tf.cond(choice < 0.5, by_mixup, by_cutmix)
    if augmentation.mixup_alpha:
        return by_mixup()
    if augmentation.cutmix_alpha:
        return by_cutmix()
    return tf.cast(images, tf.float32), labels


def _shuffled(dataset, buffer_size, seed):
    """`dataset.shuffle` whose order depends only on `seed`, `(2,)`.

    The order of `Dataset.shuffle` also depends on TensorFlow's global seed and on how many iterators were opened before
    (Keras silently opens an extra one under a strategy). With a global seed of 0 it does not accept a tensor.
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
    """`() int64 -> (2,) int32`: the random seed for one position in one stream."""
    position = tf.cast(position, tf.int64)
    low, high = tf.cast(position % 2**31, tf.int32), tf.cast(position // 2**31, tf.int32)
    return tf.random.fold_in(tf.random.fold_in(tf.stack([seed, stream]), low), high)


def _seeds(seed, stream, positions):
    """`(n,) int64 -> (n, 2) int32`: `_seed` for many positions."""

    def seeds(positions):
        first = np.broadcast_to(np.array([seed, stream], np.int32), (len(positions), 2))
        return fold_in(fold_in(first, (positions % 2**31).astype(np.int32)), (positions // 2**31).astype(np.int32))

    return tf.ensure_shape(tf.numpy_function(seeds, [positions], tf.int32), (None, 2))
