"""TFLite Model Metadata: the description of input, output and labels inside a TFLite file.

Source: metadata_schema.fbs of TFLite Support (the numbers below are its field numbers) and schema.fbs of TFLite.
"""

import importlib.metadata

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools.flatbuffer_utils import convert_bytearray_to_object

KEY = "TFLITE_METADATA"
LABELS = "labels.txt"  # the name that readers of the metadata expect
COLOR_SPACES = {3: np.int8(1), 1: np.int8(2)}  # RGB, GRAYSCALE by number of channels
IMAGE_PROPERTIES, NORMALIZATION, AXIS_LABELS = np.int8(2), np.int8(1), np.int8(2)


class _AlignedBuilder(flatbuffers.Builder):
    """The generated Python code ignores the alignment in the schema; kernels read constants in place."""

    def StartVector(self, elemSize, numElems, alignment):
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def add_metadata(content, name, input_shape, description):
    """The bytes of a TFLite file with metadata for an image of shape `(H, W, channels)`."""
    model, buffer, entry = convert_bytearray_to_object(content), schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_metadata(name, input_shape, description), np.uint8)
    entry.name, entry.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = _AlignedBuilder(len(content) + 65536)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def minimum_runtime(content) -> str:
    """The oldest TensorFlow Lite that runs a file, as its converter noted it, such as "2.17.0"; empty if unknown."""
    model = convert_bytearray_to_object(content)
    entries = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    return "".join(bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode() for entry in entries)


def _metadata(name, input_shape, description):
    height, width, channels = input_shape
    version = importlib.metadata.version("keras_mixer")
    size = {0: np.uint32(width), 1: np.uint32(height)}
    pixels = {0: IMAGE_PROPERTIES, 1: {0: COLOR_SPACES.get(channels, np.int8(0)), 1: size}}
    unchanged = {0: NORMALIZATION, 1: {0: [0.0], 1: [1.0]}}  # the model itself scales the pixels
    image = {0: "image", 1: description, 3: pixels, 4: [unchanged], 5: {0: [255.0], 1: [0.0]}}
    labels = {0: LABELS, 1: "class names, one per line", 2: AXIS_LABELS}
    output = {0: "probabilities", 1: "probability of each class", 5: {0: [1.0], 1: [0.0]}, 6: [labels]}
    about = {0: name, 1: "MLP-Mixer image classifier (arXiv 2105.01601)", 2: version, 4: "keras_mixer", 7: "1.0.0"}
    builder = flatbuffers.Builder()
    builder.Finish(_pack(builder, about | {3: [{2: [image], 3: [output]}]}), b"M001")
    return bytes(builder.Output())


def _pack(builder, value):
    """Writes a string, a list of floats or of tables, or a table `{field number: value}`; returns its offset."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, list) and isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if isinstance(value, list):
        offsets = [_pack(builder, table) for table in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    fields = {i: field if isinstance(field, np.generic) else _pack(builder, field) for i, field in value.items()}
    slots = {np.int8: builder.PrependInt8Slot, np.uint32: builder.PrependUint32Slot}
    builder.StartObject(max(fields) + 1)
    for i, field in fields.items():
        slots.get(type(field), builder.PrependUOffsetTRelativeSlot)(i, field, 0)
    return builder.EndObject()
