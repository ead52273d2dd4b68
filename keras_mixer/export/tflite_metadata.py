"""What a TFLite file says of itself: TFLite Model Metadata for its input, its output and its labels.

Source: metadata_schema.fbs of TFLite Support (the numbers below are its field numbers) and schema.fbs of TFLite.
"""

import dataclasses

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

KEY = "TFLITE_METADATA"
LABELS = "labels.txt"  # the name that readers of the metadata expect
DATA_ALIGNMENT = 16  # bytes; kernels read constants in place
RGB, GREYSCALE = 1, 2
AXIS_LABELS = 2
IMAGE_PROPERTIES, NORMALIZATION = 2, 1  # members of their unions


class _AlignedBuffer(schema.BufferT):
    """The generated Python code forgets the alignment that the schema asks for."""

    def Pack(self, builder):
        data = None
        if self.data is not None:
            content = bytes(self.data)
            builder.StartVector(1, len(content), DATA_ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def add_metadata(content, name, version, input_shape, description):
    """`bytes -> bytes`: a TFLite file with metadata in place.

    Args:
        content: the file.
        name: of the model.
        version: of the software that wrote it.
        input_shape: `(H, W, channels)`.
        description: of the preprocessing, in words.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    model.buffers = [_made(_AlignedBuffer, **vars(buffer)) for buffer in model.buffers]
    model.buffers.append(_made(_AlignedBuffer, data=_metadata(name, version, input_shape, description)))
    model.metadata = [*(model.metadata or []), _made(schema.MetadataT, name=KEY, buffer=len(model.buffers) - 1)]
    builder = flatbuffers.Builder(len(content) + 65536)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _made(table, **fields):
    """A table of the schema; before TensorFlow 2.20 their constructors take no arguments."""
    made = table()
    vars(made).update(fields)
    return made


def operators(content) -> dict[str, int]:
    """How often each operator occurs in a TFLite file; operators that are no part of TFLite by their own names."""
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if key.isupper()}
    model = schema.Model.GetRootAsModel(content, 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    counts: dict[str, int] = {}
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = codes[operator.OpcodeIndex()]
            custom = code.CustomCode()
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files fill only the second
            name = f"custom {custom.decode()}" if custom else names[number]
            counts[name] = counts.get(name, 0) + 1
    return counts


@dataclasses.dataclass
class _Writer:
    """Tables of a flatbuffer without generated classes: each field is `(number, value, kind)`."""

    builder: flatbuffers.Builder

    def table(self, *fields):
        self.builder.StartObject(1 + max(number for number, _, _ in fields))
        for number, value, kind in fields:
            if kind == "offset":
                self.builder.PrependUOffsetTRelativeSlot(number, value, 0)
            elif kind == "byte":
                self.builder.PrependInt8Slot(number, value, 0)
            else:
                self.builder.PrependUint32Slot(number, value, 0)
        return self.builder.EndObject()

    def text(self, number, value):
        return number, self.builder.CreateString(value), "offset"

    def tables(self, number, *offsets):
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return number, self.builder.EndVector(), "offset"

    def floats(self, number, *values):
        self.builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.builder.PrependFloat32(value)
        return number, self.builder.EndVector(), "offset"


def _metadata(name, version, input_shape, description):
    write = _Writer(flatbuffers.Builder())
    height, width, channels = input_shape
    size = write.table((0, width, "uint"), (1, height, "uint"))
    color = (0, {3: RGB, 1: GREYSCALE}.get(channels, 0), "byte")
    content = write.table((0, IMAGE_PROPERTIES, "byte"), (1, write.table(color, (1, size, "offset")), "offset"))
    as_is = write.table(write.floats(0, 0.0), write.floats(1, 1.0))  # the model itself maps pixels to [-1, 1]
    step = write.table((0, NORMALIZATION, "byte"), (1, as_is, "offset"))
    pixels = write.table(write.floats(0, 255.0), write.floats(1, 0.0))
    image = write.table(
        write.text(0, "image"),
        write.text(1, description),
        (3, content, "offset"),
        write.tables(4, step),
        (5, pixels, "offset"),
    )
    labels = write.table(write.text(0, LABELS), write.text(1, "class names, one a line"), (2, AXIS_LABELS, "byte"))
    shares = write.table(write.floats(0, 1.0), write.floats(1, 0.0))
    probabilities = write.table(
        write.text(0, "probabilities"),
        write.text(1, "probability of each class"),
        (5, shares, "offset"),
        write.tables(6, labels),
    )
    graph = write.table(write.tables(2, image), write.tables(3, probabilities))
    model = write.table(
        write.text(0, name),
        write.text(1, "MLP-Mixer image classifier (arXiv 2105.01601)"),
        write.text(2, version),
        write.tables(3, graph),
        write.text(4, "keras_mixer"),
        write.text(7, "1.0.0"),
    )
    write.builder.Finish(model, b"M001")
    return bytes(write.builder.Output())
