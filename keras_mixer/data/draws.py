"""TensorFlow's stateless random numbers for many seeds at once, in NumPy.

One call of TensorFlow draws from one seed, and starting it takes longer than the draw; here a call draws for a thousand
images. The numbers are the same bit for bit, so an image looks the same whichever way it was prepared.

Source: Salmon et al. 2011 (Philox4x32-10); TensorFlow's `philox_random.h`, `stateless_random_ops.cc` and
`sample_distorted_bounding_box_op.cc`.
"""

import numpy as np

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
SCRAMBLING_KEY = np.uint64(0x3EC8F720), np.uint64(0x02461E29)
MOST_ATTEMPTS = 100  # of a random box, TensorFlow's default


class Streams:
    """One stream of 32-bit numbers for each seed, each with its own position.

    Args:
        seeds: `(n, 2) int32`.
    """

    def __init__(self, seeds):
        wide = seeds.astype(np.int64).astype(np.uint64)  # a negative seed fills the upper half with ones
        first, second = wide[:, 0], wide[:, 1]
        mixed = _philox((first & LOW, first >> HALF, second & LOW, second >> HALF), SCRAMBLING_KEY)
        self.key, self.counter = mixed[:2], mixed[2:]
        self.used = np.zeros(len(seeds), np.uint64)

    def words(self):
        """`(n, 4) uint32`: the first four numbers of each stream."""
        zero = np.zeros_like(self.used)
        return np.stack(_philox((zero, zero, *self.counter), self.key), 1).astype(np.uint32)

    def next(self, rows):
        """`(k,) -> (k,) uint32`: the next number of the streams at these indices."""
        zero, used = np.zeros(len(rows), np.uint64), self.used[rows]
        counter = (used // np.uint64(4), zero, *(part[rows] for part in self.counter))
        four = np.stack(_philox(counter, tuple(part[rows] for part in self.key)))
        self.used[rows] += np.uint64(1)
        return four[used % np.uint64(4), np.arange(len(rows))].astype(np.uint32)

    def next_below(self, rows, limits):
        """`(k,), (k,) -> (k,) int64`: numbers in [0, limit), all equally likely, of the streams at these indices."""
        limits = limits.astype(np.uint32)
        power_of_two = limits & (limits - np.uint32(1)) == 0
        refused = np.where(power_of_two, 0, np.uint32(0xFFFFFFFF) % limits + 1)  # they make the last range unfair
        drawn = self.next(rows)
        while (again := np.flatnonzero(drawn < refused)).size:
            drawn[again] = self.next(rows[again])
        return (drawn % limits).astype(np.int64)


def _philox(counter, key):
    """Four and two `(n,) uint64` below 2^32 `-> ` four `(n,) uint64` random numbers below 2^32."""
    first, second, third, fourth = counter
    for _ in range(10):
        one, other = first * MULTIPLIERS[0], third * MULTIPLIERS[1]
        first, second = (other >> HALF) ^ second ^ key[0], other & LOW
        third, fourth = (one >> HALF) ^ fourth ^ key[1], one & LOW
        key = tuple(part + step & LOW for part, step in zip(key, KEY_STEPS, strict=True))
    return first, second, third, fourth


def fold_in(seeds, data):
    """`(n, 2) int32, () or (n,) -> (n, 2) int32`: `tf.random.fold_in` of each seed."""
    folded = np.empty_like(seeds)
    folded[:, 0], folded[:, 1] = Streams(seeds).words()[:, 0].view(np.int32), data
    return folded


def split(seeds):
    """`(n, 2) int32 -> (n, 2) int32` twice: `tf.random.split` of each seed."""
    words = Streams(seeds).words().view(np.int32)
    return words[:, :2], words[:, 2:]


def uniform(words):
    """`uint32 -> float32` in [0, 1), as `tf.random.stateless_uniform`."""
    return (words & np.uint32(0x7FFFFF) | np.uint32(127 << 23)).view(np.float32) - np.float32(1)


def distorted_boxes(seeds, sides, area, aspect):
    """`(n, 2) int32 -> (n, 4) int32`: top, left, height, width of `tf.image.stateless_sample_distorted_bounding_box`.

    Args:
        seeds: one for each box.
        sides: `(height, width)` of the image.
        area: smallest and largest fraction of the image's area.
        aspect: smallest and largest width / height.
    """
    streams, (image_height, image_width) = Streams(seeds), sides
    area, aspect = np.array(area, np.float32), np.array(aspect, np.float32)
    smallest, largest = area * np.float32(image_width) * np.float32(image_height)
    boxes = np.tile(np.array([0, 0, image_height, image_width]), (len(seeds), 1))
    rows = np.arange(len(seeds))
    for _ in range(MOST_ATTEMPTS):
        ratio = uniform(streams.next(rows)) * (aspect[1] - aspect[0]) + aspect[0]

        def width_of(height, ratio=ratio):
            return np.rint(height.astype(np.float32) * ratio).astype(np.int64)

        height, tallest = (np.rint(np.sqrt(limit / ratio)).astype(np.int64) for limit in (smallest, largest))
        fitting = ((image_width + 0.5 - np.float64(np.float32(1e-7))) / ratio.astype(np.float64)).astype(np.int64)
        fitting -= width_of(fitting) > image_width
        tallest = np.minimum(np.where(width_of(tallest) > image_width, fitting, tallest), image_height)
        height = np.minimum(height, tallest)
        free = np.flatnonzero(height < tallest)
        height[free] += streams.next_below(rows[free], tallest[free] - height[free] + 1)
        height += width_of(height) * height < smallest
        height -= width_of(height) * height > largest
        width = width_of(height)
        covered = width * height
        found = (covered >= smallest) & (covered <= largest) & (width <= image_width) & (height <= image_height)
        found &= (width > 0) & (height > 0)
        size = np.stack([height, width], 1)[found]
        place = np.zeros_like(size)
        for axis, side in enumerate(sides):
            free = np.flatnonzero(size[:, axis] < side)
            place[free, axis] = streams.next_below(rows[found][free], side - size[free, axis])
        boxes[rows[found]] = np.concatenate([place, size], 1)
        rows = rows[~found]
        if not rows.size:
            break
    return boxes.astype(np.int32)
