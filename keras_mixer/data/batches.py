"""From a split to batches: order, crop, augment, batch, mix. Every random choice depends only on the seed and the step.

Row r of step s has the example at position s * B + r of the order, and row r of the random numbers of step s: the same
batches for any number of threads and processes. Examples that are read by position are found at once in a resumed run.
"""

import math

import numpy as np
import tensorflow as tf

from keras_mixer.data.augment import CROP_NUMBERS, OPERATION_NUMBERS, cutmix, mixup, rand_augment
from keras_mixer.data.decode import evaluation_crop, image_of, training_crop
from keras_mixer.data.splits import CORES, Split, as_written, prefetch

NUMBERS, MIXING, GAMMAS, POWERS, ORDER = (i << 32 for i in range(5))  # added to the seed: independent streams
ROUNDS = 16  # of RandomIndexShuffle; with its default of 4, the orders of two epochs correlate
LARGEST_SIDE = 64  # pixels; larger images are as fast one by one
MAX_CACHED_BYTES = 256 * 2**20  # 1,783 images of 224 x 224
BATCHES_AT_A_TIME = 2  # that are mixed in parallel


@as_written
def training_batches(split: Split, recipe, start_step=0, devices=None) -> tf.data.Dataset:
    """Endless training batches `(images (B, h, w, 3) float32 in [0, 255], labels (B, classes) float32 one-hot)`.

    Batches cross epoch boundaries, so all have the same size and no example is dropped. The first one is that of
    `start_step`. With class weights each batch has a third part, `(B,) float32`: the weight of each example; mixed
    labels are weighted in proportion. A process of `devices` returns only its own rows.
    """
    batch, seed = recipe.global_batch_size, recipe.seed
    process, processes = (devices.process, devices.processes) if devices else (0, 1)
    rows = batch // processes
    own = slice(process * rows, (process + 1) * rows)
    size, weights = recipe.input_shape()[:2], _class_weights(split, recipe.class_weights)
    options = (recipe.randaugment_level, recipe.randaugment_operations, recipe.randaugment_fill)
    columns = CROP_NUMBERS + OPERATION_NUMBERS * recipe.randaugment_num_ops
    if recipe.cache:
        split = _cached(split)

    def augmented(elements, numbers):
        """Images `(n, h, w, 3) uint8` of elements, `(n, columns)` numbers; n is 1 if they are not read together."""
        example = split.read(elements)
        images = training_crop(example, numbers[:, :CROP_NUMBERS], recipe)
        return rand_augment(images, numbers[:, CROP_NUMBERS:], *options), tf.one_hot(example["label"], split.classes)

    def mixed(step, examples):
        images, labels = examples
        images = tf.reshape(images, (rows, *size, 3))  # one by one they came as (B, 1, h, w, 3)
        images, labels = _mix(step, recipe, tf.cast(images, tf.float32), labels)
        return (images, labels) if weights is None else (images, labels, tf.linalg.matvec(labels, weights))

    steps = tf.data.Dataset.counter(start_step)
    drawn = steps.map(lambda step: tf.random.stateless_uniform((batch, columns), [NUMBERS + seed, step])[own])
    places = tf.range(batch, dtype=tf.int64)[own]
    order = steps.map(lambda step: shuffled_indices(step * batch + places, split.size, seed))
    if split.at and split.pixels and max(*split.pixels, *size) <= LARGEST_SIDE:
        batches = tf.data.Dataset.zip(order.map(split.at), drawn).map(augmented, CORES)
    else:
        elements = order.map(split.at).unbatch() if split.at else _streamed(split, recipe, start_step, own)
        one_by_one = tf.data.Dataset.zip(elements, drawn.unbatch())
        examples = one_by_one.map(lambda element, numbers: augmented(element, numbers[None]), CORES)
        batches = examples.batch(rows, drop_remainder=True)
    return prefetch(tf.data.Dataset.zip(steps, batches).map(mixed, BATCHES_AT_A_TIME))


def shuffled_indices(positions, size, seed):
    """`(n,) int64 -> (n,) int64`: the examples at positions of a stream of epochs, each in an order of its own."""
    keys = [seed, 0, 0] + [0, 1, 0] * (positions // size)[:, None]  # one for each epoch
    last = tf.constant(size - 1, tf.int64)
    return tf.raw_ops.RandomIndexShuffle(index=positions % size, seed=keys, max_index=last, rounds=ROUNDS)


@as_written
def evaluation_batches(split: Split, *, image_size, batch_size, crop) -> tf.data.Dataset:
    """Each example once, in order: `(images (B, h, w, 3) uint8, labels (B,) int64)`; the last batch may be smaller."""
    return prefetch(_evaluated(split, image_size, crop).batch(batch_size))


@as_written
def padded_batches(split: Split, recipe, devices) -> tf.data.Dataset:
    """Each example once, in batches of equal size: `(images uint8, labels one-hot, weights (B,) float32)`.

    The last batch is padded with black images of weight 0, because multiple devices cannot share a smaller one; the
    mean over all rows is that over the examples. A process of `devices` reads only its own rows.
    """
    size, most = recipe.input_shape()[:2], -(-split.size // devices.count) * devices.count
    batch = min(recipe.global_batch_size // recipe.accumulation_steps, most)
    count, rows = -(-split.size // batch), batch // devices.processes
    own = split.part(np.arange(split.size) % batch // rows == devices.process)

    def weighted(images, labels):
        return images, tf.one_hot(labels, split.classes), tf.where(labels < 0, 0.0, count * batch / split.size)

    black = tf.data.Dataset.from_tensors((tf.zeros((*size, 3), tf.uint8), tf.constant(-1, tf.int64)))
    examples = _evaluated(own, size, recipe.evaluation_crop).concatenate(black.repeat(count * rows - own.size))
    batches = examples.batch(rows, drop_remainder=True).map(weighted)
    small = count * rows * math.prod(size) * 3 <= MAX_CACHED_BYTES
    if small and devices.strategy is None:  # Keras reads them after every epoch; with replicas, two iterators at first
        batches = batches.cache()
    return prefetch(batches)


def _evaluated(split, image_size, crop):
    """The examples of a split, one by one, as a model is evaluated on them."""

    def prepared(element):
        example = split.read(element)
        return evaluation_crop(image_of(example), image_size, crop), example["label"]

    examples = split.elements.map(prepared, num_parallel_calls=CORES)
    # File readers have unknown cardinality, and Keras 3.15 then runs one step too many.
    return examples.apply(tf.data.experimental.assert_cardinality(split.size))


def _class_weights(split, wanted):
    """`(classes,) float32`, if balanced with mean 1 over the training examples; None without weights."""
    if wanted == "balanced":
        wanted = split.size / split.classes / np.maximum(np.bincount(split.labels(), minlength=split.classes), 1)
    return None if wanted is None else tf.constant(wanted, tf.float32)


def _mix(step, recipe, images, labels):
    """`(n, h, w, 3), (n, classes) -> the same`: mixup, CutMix, either or neither.

    Each image is mixed with the previous one of its shard, because a process has only its own rows.
    """
    rows = recipe.global_batch_size // recipe.data_shards
    partners = np.roll(np.arange(images.shape[0]).reshape(-1, rows), 1, axis=1).ravel()
    seed = tf.stack([MIXING + recipe.seed, step])
    which, *center = tf.unstack(tf.random.stateless_uniform((3,), seed))

    def by_mixup():
        fraction = _beta(seed, recipe.mixup_alpha)
        fraction = tf.maximum(fraction, 1 - fraction)
        return mixup(images, partners, fraction), mixup(labels, partners, fraction)

    def by_cutmix():
        return cutmix(images, labels, partners, _beta(seed, recipe.cutmix_alpha), tf.stack(center))

    alphas = {by_mixup: recipe.mixup_alpha, by_cutmix: recipe.cutmix_alpha}
    ways = [way for way, alpha in alphas.items() if alpha]
    return tf.switch_case(tf.cast(which * len(ways), tf.int32), ways) if ways else (images, labels)


def _beta(seed, alpha):
    """One draw from Beta(alpha, alpha), by logarithms of gammas, which would underflow for a small alpha."""
    powers = tf.math.log(1 - tf.random.stateless_uniform((2,), tf.add(seed, [POWERS, 0]))) / alpha
    gammas = tf.math.log(tf.random.stateless_gamma((2,), tf.add(seed, [GAMMAS, 0]), alpha=alpha + 1)) + powers
    return tf.sigmoid(gammas[0] - gammas[1])


def _cached(split):
    """A split whose images are decoded once, and which can then be read only in order."""
    if split.at is None:
        raise ValueError("cache=True needs images that can be read by position. Leave it out, or use Dataset.cache().")

    def decoded(element):
        example = split.read(element)
        return {"image": image_of(example), "label": example["label"]}

    elements = split.elements.map(decoded, CORES).cache()
    return Split(
        split.size, split.classes, elements, lambda one: one, read_shard=lambda *shard: _cached(split.shard(*shard))
    )


def _streamed(split, recipe, start_step, own):
    """Elements that are read in order, through a shuffle buffer for each shard; the rows of a shard are together."""
    shards, rows = recipe.data_shards, recipe.global_batch_size // recipe.data_shards

    def stream(shard):
        part = split.shard(shards, shard)
        buffer = min(part.size, max(recipe.shuffle_buffer // shards, 1))
        epoch, seen = divmod(start_step * rows, part.size)

        def one_epoch(epoch):
            return _shuffled(part.elements, buffer, (ORDER + recipe.seed, epoch * shards + shard))

        return tf.data.Dataset.counter(epoch).flat_map(one_epoch).skip(seen)

    streams = [stream(shard) for shard in range(own.start // rows, own.stop // rows)]
    turns = tf.data.Dataset.from_tensor_slices(np.repeat(np.arange(len(streams)), rows)).repeat()
    return tf.data.Dataset.choose_from_datasets(streams, turns)


def _shuffled(dataset, buffer_size, seed):
    """`dataset.shuffle` whose order depends only on `seed`, two numbers, and not on TensorFlow's global seed too."""
    leaves = tf.nest.flatten(dataset.element_spec)
    variant = tf.raw_ops.ShuffleDatasetV3(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=buffer_size,
        seed=seed[0],
        seed2=seed[1],
        seed_generator=tf.raw_ops.DummySeedGenerator(),
        reshuffle_each_iteration=False,
        output_types=[leaf.dtype for leaf in leaves],
        output_shapes=[leaf.shape for leaf in leaves],
    )
    return tf.data.experimental.from_variant(variant, dataset.element_spec)
