import json
import zipfile

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.export.tflite_metadata import KEY, minimum_runtime

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="written by TensorFlow")


def test_names_and_preprocessing_travel_inside(classifier, tflite_file):
    import flatbuffers.table
    from tensorflow.lite.python import schema_py_generated as schema

    with zipfile.ZipFile(tflite_file) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(classifier.class_names)
        description = json.loads(archive.read("keras_mixer.json"))
    assert description["evaluation_crop"] == "resmall-crop"
    assert description["input_shape"] == [16, 24, 3]
    content = tflite_file.read_bytes()
    assert minimum_runtime(content) == "2.9.0"  # the first with GELU
    model = schema.Model.GetRootAsModel(content, 0)
    entries = {model.Metadata(i).Name().decode(): model.Metadata(i).Buffer() for i in range(model.MetadataLength())}
    metadata = model.Buffers(entries[KEY]).DataAsNumpy().tobytes()
    assert flatbuffers.util.BufferHasIdentifier(metadata, 0, b"M001")
    for text in (b"image", b"probabilities", b"labels.txt", b"16 x 24 pixels in [0, 255]; of any image: resmall-crop"):
        assert text in metadata
    root = flatbuffers.table.Table(metadata, int.from_bytes(metadata[:4], "little"))
    image = first(first(root, 3), 2)
    assert byte(child(image, 3), 0) == 2  # ImageProperties
    assert byte(child(child(image, 3), 1), 0) == 1  # RGB
    assert byte(first(image, 4), 0) == 1  # NormalizationOptions
    assert byte(first(first(first(root, 3), 3), 6), 2) == 2  # TENSOR_AXIS_LABELS
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    for i in range(model.BuffersLength()):  # kernels read constants in place
        data = model.Buffers(i).DataAsNumpy()
        assert isinstance(data, int) or (data.__array_interface__["data"][0] - start) % 16 == 0


def child(table, number):
    """The table in a field, by the field numbers of metadata_schema.fbs."""
    return type(table)(table.Bytes, table.Indirect(table.Pos + table.Offset(4 + 2 * number)))


def first(table, number):
    return type(table)(table.Bytes, table.Indirect(table.Vector(table.Offset(4 + 2 * number))))


def byte(table, number):
    return table.Bytes[table.Pos + table.Offset(4 + 2 * number)]


def test_unfit_arguments_are_refused(classifier, tmp_path):
    (tmp_path / "there.tflite").write_bytes(b"precious")
    for name, options, message in [
        ("a.tflite", {"quantization": "int4"}, "must be None, 'float16', 'dynamic_int8' or 'int8', got 'int4'"),
        ("a.tflite", {"quantization": "int8"}, "representative_images are needed"),
        ("a.tflite", {"quantization": "int8", "representative_images": np.eye(9)}, r"got shape \(9, 9\)"),
        ("a.tflite", {"batch_size": 0}, "batch_size must be greater than or equal to 1, got 0"),
        ("there.tflite", {}, "not overwritten"),
    ]:
        with pytest.raises((ValueError, UserWarning), match=message):
            keras_mixer.export_tflite(classifier, tmp_path / name, **options)
    assert [item.name for item in tmp_path.iterdir()] == ["there.tflite"]
