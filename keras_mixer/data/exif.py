"""The orientation of a photograph: a phone stores the pixels as its sensor lies, and how to turn them as an EXIF tag.

Uses TensorFlow operations only, because it runs in `tf.data` and inside an exported SavedModel. Source of the offsets:
JPEG (ITU-T T.81, B.1.1.4), Exif 3.0 (CIPA DC-008, 4.5 and tag 0x0112) and TIFF 6.0 (section 2).

| orientation | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 |
|---|---|---|---|---|---|---|---|---|
| rows and columns exchanged | | | | | x | x | x | x |
| then flipped left-right | | x | x | | | x | x | |
| then flipped top-bottom | | | x | x | | | x | x |
"""

import tensorflow as tf

from keras_mixer.data.rare import rarely

UPRIGHT = 1
NOT_TURNED = (UPRIGHT, 0)  # orientation, and no place in the file
FLIPPED_LEFT_RIGHT, FLIPPED_TOP_BOTTOM, EXCHANGED = (2, 3, 6, 7), (3, 4, 7, 8), (5, 6, 7, 8)
EXIF_HEADER, EXIF_MARKER, COMMENT_MARKER = [*b"Exif\0\0"], 0xE1, 0xFE
TAG, SHORT = 0x0112, 3  # the number of the tag, and of its type
SEARCHED_BYTES = 2**13  # for the EXIF segment, which the specification wants at the start
MOST_SEGMENTS = 64  # before the EXIF segment, which is the first or second one; more come only from hostile files
MOST_TAGS, MOST_BYTES = 512, 2**16  # of the EXIF segment
LAST_DIRECTORY = MOST_BYTES - 2 - 12 * MOST_TAGS


def orientation_of(encoded):
    """`() string -> () int32`: the EXIF orientation of a JPEG, 1 to 8; 1 for other files or without a valid tag."""
    return _orientation_tag(encoded)[0]


def as_stored(encoded):
    """`() string -> () string`: a JPEG without its orientation, so that it is not turned; other files unchanged.

    For benchmarks: the published accuracies of ImageNet and VTAB are those of pixels as stored.
    """
    orientation, place = _orientation_tag(encoded)

    def cleared():
        end = tf.strings.substr(encoded, place + 2, tf.strings.length(encoded))
        return tf.strings.join([tf.strings.substr(encoded, 0, place), b"\0\0", end])

    return tf.cond(orientation > UPRIGHT, cleared, lambda: encoded)


def turn_upright(image, orientation):
    """`(H, W, 3) uint8 -> (H, W, 3) or (W, H, 3) uint8`: the pixels as a person sees them."""
    return tf.cond(orientation > UPRIGHT, lambda: _turned(image, orientation), lambda: image)


def upright_sides(sides, orientation):
    """`(2,) -> (2,)`: height and width after `turn_upright`."""
    return tf.where(_is_in(orientation, EXCHANGED), sides[::-1], sides)


def decode_upright_crop(encoded, window, sides, orientation):
    """`() string -> (h, w, 3) uint8`: a crop of a turned JPEG; only the crop is decoded.

    Args:
        encoded: the JPEG.
        window: `(4,) int32`, top, left, h and w of the crop in the upright image.
        sides: `(2,) int32`, height and width of the upright image.
        orientation: of the JPEG.
    """
    corner, size = window[:2], window[2:]
    corner = tf.where(_flips(orientation), sides - corner - size, corner)
    stored = tf.concat([upright_sides(corner, orientation), upright_sides(size, orientation)], 0)
    return turn_upright(tf.io.decode_and_crop_jpeg(encoded, stored, channels=3), orientation)


@rarely(tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int32))
def _turned(image, orientation):
    exchanged = tf.cond(_is_in(orientation, EXCHANGED), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    return tf.reverse(exchanged, tf.boolean_mask([0, 1], _flips(orientation)))


def _flips(orientation):
    """`(2,) bool`: whether to flip top-bottom, and left-right."""
    return tf.stack([_is_in(orientation, FLIPPED_TOP_BOTTOM), _is_in(orientation, FLIPPED_LEFT_RIGHT)])


def _is_in(orientation, orientations):
    return tf.reduce_any(orientation == tf.constant(orientations))


def _orientation_tag(encoded):
    """`() string -> () int32, () int32`: the orientation, and the position of its two bytes in the file."""
    start = tf.strings.substr(encoded, 0, SEARCHED_BYTES)
    named = tf.strings.regex_full_match(start, r"\C*Exif\x00\x00\C*")  # one operation, for the many without a tag
    return tf.cond(named & tf.io.is_jpeg(encoded), lambda: _parsed_tag(encoded), lambda: NOT_TURNED)


@rarely(tf.TensorSpec((), tf.string))
def _parsed_tag(encoded):
    """`_orientation_tag` of any JPEG."""

    def content(position, length):  # zeros beyond the end
        part = tf.strings.substr(encoded, tf.minimum(position, tf.strings.length(encoded)), length)
        return tf.io.decode_raw(part, tf.uint8, fixed_length=length)

    def header(segment):  # marker, length, and the first bytes of an application's segment
        return tf.cast(content(segment, len(EXIF_HEADER) + 4), tf.int32)

    def is_exif(head):
        return tf.reduce_all(head[4:] == EXIF_HEADER) & tf.equal(head[1], EXIF_MARKER)

    def another_follows(segment, head, count):
        of_application = (head[1] & 0xF0 == 0xE0) | (head[1] == COMMENT_MARKER)
        return of_application & ~is_exif(head) & (count < MOST_SEGMENTS)

    def following(segment, head, count):
        start = segment + 2 + 256 * head[2] + head[3]
        return start, header(start), count + 1

    first = tf.constant(2)
    segment, head, _ = tf.while_loop(another_follows, following, [first, header(first), 0])

    def tag():
        start = segment + 4 + len(EXIF_HEADER)
        tiff = content(start, MOST_BYTES)
        little = tf.equal(tiff[0], ord("I"))

        def number(position):
            first, second = (tf.cast(tf.gather(tiff, position + i), tf.int32) for i in range(2))
            return tf.where(little, first + 256 * second, 256 * first + second)

        directory = tf.minimum(number(tf.where(little, 4, 6)), LAST_DIRECTORY)  # the lower half of its offset
        entries = directory + 2 + 12 * tf.range(tf.minimum(number(directory), MOST_TAGS))
        found = entries[(number(entries) == TAG) & (number(entries + 2) == SHORT)]
        place = tf.concat([found, [0]], 0)[0] + 8
        orientation = tf.where(tf.size(found) > 0, number(place), UPRIGHT)
        return tf.where((orientation >= 1) & (orientation <= 8), orientation, UPRIGHT), start + place

    return tf.cond(is_exif(head), tag, lambda: NOT_TURNED)
