"""The size of an image from its header, so that a small file that unpacks to gigabytes is refused before it is decoded.

Works inside a graph: in `tf.data`, and in an exported SavedModel. Source of the positions: the specifications of PNG,
GIF89a, BMP (BITMAPINFOHEADER) and WebP (RFC 9649).
"""

import re

import tensorflow as tf

LARGEST_IMAGE = 128_000_000  # pixels, 384 MB decoded; the cameras of telephones reach 108 million
MOST_GIF_BLOCKS = 65_536  # of up to 255 bytes, up to the end of the first frame
REFUSED = "an image of"  # so begins the message of an image that is refused for its size
_FIRST_BYTES = 32
_JPEG, _PNG, _GIF, _BMP, _WEBP, _UNKNOWN = range(6)


@tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)  # eager loops over blocks are slow
def safe_image(encoded):
    """`() string -> () string, (2,) int64`: bytes that are safe to decode, and `(height, width)` by their header.

    A GIF is cut off after its first frame, the only one used: decoders unpack all frames, whose number and sizes
    its header does not tell. Other formats, such as TensorFlow 2.21's JPEG XL, are refused: their size is unknown.

    Raises:
        tf.errors.InvalidArgumentError: the image has more than `LARGEST_IMAGE` pixels (`why_refused` reads the
            message), is of another format, or its header is damaged.
    """
    head = tf.cast(tf.io.decode_raw(encoded, tf.uint8, fixed_length=_FIRST_BYTES), tf.int64)
    kind = _kind(encoded)
    encoded, size = tf.switch_case(
        kind,
        {
            _JPEG: lambda: (encoded, tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64)),
            _PNG: lambda: (encoded, tf.stack([_big_endian(head[20:24]), _big_endian(head[16:20])])),
            _GIF: lambda: _first_frame(encoded),
            _BMP: lambda: (encoded, tf.abs(tf.stack([_signed(_little_endian(head[i : i + 4])) for i in (22, 18)]))),
            _WEBP: lambda: (encoded, _webp_size(head)),
            _UNKNOWN: lambda: (encoded, tf.zeros(2, tf.int64)),
        },
    )
    known = tf.debugging.Assert(tf.not_equal(kind, _UNKNOWN), ["the format is not JPEG, PNG, GIF, BMP or WebP"])
    with tf.control_dependencies([refuse_large(size), known]):
        return tf.identity(encoded), size


def safe_jpeg(encoded):
    """`safe_image` for what is known to be a JPEG: less work in an input pipeline."""
    size = tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64)
    with tf.control_dependencies([refuse_large(size)]):
        return tf.identity(encoded), tf.identity(size)


def refuse_large(size):
    """An assertion about `(height, width)` int64; `why_refused` reads its message."""
    small = tf.logical_and(tf.reduce_max(size) <= LARGEST_IMAGE, size[0] * size[1] <= LARGEST_IMAGE)  # no overflow
    return tf.debugging.Assert(small, [REFUSED, size, f"px, too large: the limit is {LARGEST_IMAGE:,} pixels"])


def why_refused(error) -> str | None:
    """What an assertion about the size of an image says to people: "an image of 9 x 9 px, too ..."."""
    # Eager: b'an image of'\n1, 2\nb'px, ...'; in a graph: [an image of] [1 2] [px, ...].
    match = re.search(rf"{REFUSED}\W+(\d+),? (\d+)\W+(?:b')?(px, [^\]'\n]*)", str(error))
    return f"{REFUSED} {match[1]} x {match[2]} {match[3]}" if match else None  # height x width


def _kind(encoded):
    first = tf.strings.substr(encoded, 0, 4)
    starts = {b"\xff\xd8\xff": _JPEG, b"\x89PN": _PNG, b"GIF": _GIF, b"RIF": _WEBP}
    kind = tf.constant(_UNKNOWN)
    for start, number in starts.items():
        kind = tf.where(tf.strings.substr(first, 0, 3) == start, number, kind)
    return tf.where(tf.strings.substr(first, 0, 2) == b"BM", _BMP, kind)


def _big_endian(four):
    return tf.reduce_sum(four * tf.constant([1 << 24, 1 << 16, 1 << 8, 1], tf.int64))


def _little_endian(some):
    return tf.reduce_sum(some * tf.constant([1 << (8 * i) for i in range(some.shape[0])], tf.int64))


def _signed(number):
    """The height of a BMP is negative where its rows run from top to bottom."""
    return tf.where(number >= 1 << 31, number - (1 << 32), number)


def _webp_size(head):
    lossy = tf.stack([_little_endian(head[28:30]), _little_endian(head[26:28])]) % (1 << 14)
    bits = _little_endian(head[21:25])
    lossless = tf.stack([bits // (1 << 14) % (1 << 14), bits % (1 << 14)]) + 1
    extended = tf.stack([_little_endian(head[27:30]), _little_endian(head[24:27])]) + 1
    return tf.where(head[15] == ord("X"), extended, tf.where(head[15] == ord("L"), lossless, lossy))


def _first_frame(encoded):
    """Walks over the blocks of a GIF to the end of its first frame; what follows is replaced by the end mark."""
    content = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    length = tf.size(content)

    def at(position):
        return content[tf.minimum(position, length - 1)]

    def pair(position):
        return at(position) + 256 * at(position + 1)

    def after_colours(position, flags):
        """A colour table, where its flag is set, has 2, 4, ... 256 entries of three bytes."""
        return position + tf.where(flags & 0x80 > 0, 3 * tf.bitwise.left_shift(2, flags & 7), 0)

    def unfinished(position, frame, inside, done):
        return tf.logical_and(position < length, tf.logical_not(done))

    def step(position, frame, inside, done):
        """Over one sub-block, inside an extension or the frame; else over what comes before the sub-blocks of one."""
        mark = at(position)
        is_frame, is_extension = tf.equal(mark, 0x2C), tf.equal(mark, 0x21)
        data = tf.where(is_frame, after_colours(position + 10, at(position + 9)) + 1, position + 2)
        last = tf.equal(mark, 0)
        return (
            tf.where(inside, position + 1 + mark, data),
            tf.where(tf.logical_and(is_frame, tf.logical_not(inside)), position, frame),
            tf.where(inside, tf.logical_not(last), True),
            tf.where(inside, tf.logical_and(last, frame > 0), tf.logical_not(tf.logical_or(is_frame, is_extension))),
        )

    start = (after_colours(13, at(10)), tf.constant(0), tf.constant(False), tf.constant(False))
    end, frame, *state = tf.while_loop(unfinished, step, start, maximum_iterations=MOST_GIF_BLOCKS)
    walked = tf.debugging.Assert(tf.logical_not(unfinished(end, frame, *state)), ["a GIF of too many blocks"])
    with tf.control_dependencies([walked]):
        first = tf.strings.join([tf.strings.substr(encoded, 0, tf.minimum(end, length)), b"\x3b"])
    sides = tf.where(frame > 0, tf.stack([pair(frame + 7), pair(frame + 5)]), 0)
    return first, tf.cast(tf.maximum(sides, tf.stack([pair(8), pair(6)])), tf.int64)
