"""The size of an image from its header, so that a small file that unpacks to gigabytes is rejected before decoding.

Uses TensorFlow operations only, because it runs in `tf.data` and inside an exported SavedModel. Source of the offsets:
the specifications of PNG, GIF89a, BMP (BITMAPINFOHEADER) and WebP (RFC 9649).
"""

import re

import tensorflow as tf

from keras_mixer.data.rare import rarely

LARGEST_IMAGE = 128_000_000  # pixels, 384 MB decoded; phone cameras reach 108 million
MOST_GIF_BLOCKS = 65_536  # of up to 255 bytes each, up to the end of the first frame
REFUSED = "an image of"  # start of the message about an image that is rejected for its size
_HEADER_BYTES = 32
_JPEG, _PNG, _GIF, _BMP, _WEBP, _UNKNOWN = range(6)


@rarely(tf.TensorSpec((), tf.string))
def safe_image(encoded):
    """`() string -> () string, (2,) int64`: bytes that are safe to decode, and `(height, width)` from their header.

    A GIF is cut after its first frame, the only one used: the decoder would unpack all frames, and the file header
    states neither their number nor their sizes. Other formats, such as TensorFlow 2.21's JPEG XL, are rejected because
    their size is unknown.

    Raises:
        tf.errors.InvalidArgumentError: the image has more than `LARGEST_IMAGE` pixels (`why_refused` reads the
            message), has another format, or its header is damaged.
    """
    head = tf.cast(tf.io.decode_raw(encoded, tf.uint8, fixed_length=_HEADER_BYTES), tf.int64)
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
    """`safe_image` for a file known to be a JPEG: less work in an input pipeline."""
    size = tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64)
    with tf.control_dependencies([refuse_large(size)]):
        return tf.identity(encoded), tf.identity(size)


def refuse_large(size):
    """Returns an assertion on `(height, width)` int64; `why_refused` reads its message."""
    small = tf.logical_and(tf.reduce_max(size) <= LARGEST_IMAGE, size[0] * size[1] <= LARGEST_IMAGE)  # no overflow
    return tf.debugging.Assert(small, [REFUSED, size, f"px, too large: the limit is {LARGEST_IMAGE:,} pixels"])


def why_refused(error) -> str | None:
    """The readable part of a failed size assertion, "an image of 9 x 9 px, too ..."; None for other errors."""
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


def _little_endian(values):
    return tf.reduce_sum(values * tf.constant([1 << (8 * i) for i in range(values.shape[0])], tf.int64))


def _signed(number):
    """The height of a BMP is negative if its rows run from top to bottom."""
    return tf.where(number >= 1 << 31, number - (1 << 32), number)


def _webp_size(head):
    lossy = tf.stack([_little_endian(head[28:30]), _little_endian(head[26:28])]) % (1 << 14)
    bits = _little_endian(head[21:25])
    lossless = tf.stack([bits // (1 << 14) % (1 << 14), bits % (1 << 14)]) + 1
    extended = tf.stack([_little_endian(head[27:30]), _little_endian(head[24:27])]) + 1
    return tf.where(head[15] == ord("X"), extended, tf.where(head[15] == ord("L"), lossless, lossy))


def _first_frame(encoded):
    """`() string -> () string, (2,) int64`: a GIF cut after its first frame, and the larger of screen and frame."""
    content = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    length = tf.size(content)

    def byte(position):
        return tf.where(position < length, content[tf.minimum(position, length - 1)], 0)

    def pair(position):
        return byte(position) + 256 * byte(position + 1)

    def after_colours(position, flags):  # a colour table, if its flag is set, has 2, 4, ... 256 entries of three bytes
        return position + tf.where(flags & 0x80 > 0, 3 * tf.bitwise.left_shift(2, flags & 7), 0)

    def after_blocks(position, count):  # each block begins with its length; the last has length 0
        position, count = tf.while_loop(
            lambda position, count: (byte(position) > 0) & (count < MOST_GIF_BLOCKS),
            lambda position, count: (position + 1 + byte(position), count + 1),
            [position, count],
        )
        return position + 1, count + 1

    frame, count = tf.while_loop(
        lambda position, count: tf.equal(byte(position), 0x21) & (count < MOST_GIF_BLOCKS),  # an extension
        lambda position, count: after_blocks(position + 2, count),
        [after_colours(13, byte(10)), tf.constant(0)],
    )
    end, count = after_blocks(after_colours(frame + 10, byte(frame + 9)) + 1, count)
    with tf.control_dependencies([tf.debugging.Assert(count <= MOST_GIF_BLOCKS, ["a GIF of too many blocks"])]):
        first = tf.strings.join([tf.strings.substr(encoded, 0, tf.minimum(end, length)), b"\x3b"])
    frame_size = tf.where(tf.equal(byte(frame), 0x2C), tf.stack([pair(frame + 7), pair(frame + 5)]), 0)
    return first, tf.cast(tf.maximum(frame_size, tf.stack([pair(8), pair(6)])), tf.int64)
