"""`keras_mixer.load` opens everything that holds a classifier, and refuses all else in words."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs, turned

import keras_mixer
from keras_mixer import cli
from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import METADATA_KEY

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
MODULES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "openvino": ("openvino",)}
EXPORTS = ["saved_model", "tflite", "onnx", "openvino"]
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="exports are written on TensorFlow")


def need(format):
    for module in MODULES.get(format, ()):
        pytest.importorskip(module, reason=f"needs extra [{format}]")


@pytest.fixture
def model(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize-crop"
    return model


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.jpg"
    path.write_bytes(turned(photographs()[0]))
    return path


def holders(model, kind, folder):
    """Paths that hold the model."""
    if kind == "keras":
        (folder / "run").mkdir()
        model.save(folder / "run" / "model.keras")
        return [folder / "run", folder / "run" / "model.keras"]
    need(kind)
    if kind == "saved_model":
        (folder / "served" / "1").mkdir(parents=True)
        version = keras_mixer.export(model, kind, folder / "served", version=10).path
        return [version, folder / "served"]  # the newest is 10, though "1" comes after it as text
    path = keras_mixer.export(model, kind, folder / f"model.{kind}").path
    return [path, path / "model.xml"] if kind == "openvino" else [path]


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["keras", *(EXPORTS if ON_TENSORFLOW else [])])
def test_every_holder_of_a_model_predicts_the_same(model, photograph, tmp_path, kind, capsys):
    upright = np.rot90(tf.io.decode_jpeg(photograph.read_bytes()).numpy(), -1)
    image = np.asarray(evaluated(encode(upright, "PNG"), (16, 24), "resize-crop"))
    np.testing.assert_array_equal(keras_mixer.preprocess_image(photograph, model), image)
    expected = keras.ops.convert_to_numpy(model(image[None]))[0]
    best = np.argsort(-expected)[:3]
    for path in holders(model, kind, tmp_path):
        loaded = keras_mixer.load(path)
        for given in (photograph, str(photograph), photograph.read_bytes(), upright):
            prediction = loaded.predict(given, top_k=3)
            assert prediction.labels == tuple("abcdefghij"[i] for i in best)
            np.testing.assert_allclose(prediction.probabilities, expected[best], atol=1e-5)
            assert prediction.image == ("" if given is upright or isinstance(given, bytes) else str(photograph))
        np.testing.assert_allclose(loaded.probabilities(image[None])[0], expected, atol=1e-5)
        np.testing.assert_array_equal(keras_mixer.preprocess_image(upright, loaded), image)
    assert cli.main(["predict", str(path), str(photograph), "--top-k", "2", "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["image"], printed["labels"]) == (str(photograph), list(prediction.labels[:2]))


@pytest.mark.backends
def test_useless_paths_are_refused(model, photograph, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at"):
        keras_mixer.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", photograph):
        with pytest.raises(ValueError, match="does not contain a model"):
            keras_mixer.load(path)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="did not finish"):
        keras_mixer.load(tmp_path / "empty")
    (tmp_path / "cut_off.tflite").write_bytes(b"TFL3")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        keras_mixer.load(tmp_path / "cut_off.tflite")


@pytest.mark.backends
def test_useless_images_are_refused(model, tmp_path):
    loaded = keras_mixer.load(holders(model, "keras", tmp_path)[0])
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    long = np.zeros((2, 2000, 3), np.uint8)
    for image, message in [
        (tmp_path / "bad.jpg", r"bad\.jpg: not an image that Pillow can read"),
        (b"no image", "These 8 bytes cannot be read as an image: not an image that Pillow can read"),
        (np.zeros((3, 16, 24, 3), np.uint8), r"pixels of an image \(h, w, 3\) uint8, got \(3, 16, 24, 3\) uint8"),
        (np.zeros((16, 24, 3)), r"got \(16, 24, 3\) float64. Batches of the model's size go to probabilities"),
    ]:
        with pytest.raises(ValueError, match=message):
            loaded.predict(image)
    with pytest.raises(FileNotFoundError, match="no image file"):
        loaded.predict(tmp_path / "nothing.jpg")
    model.evaluation_crop = "resmall-crop"
    for image in (long, encode(long, "PNG")):
        with pytest.raises(ValueError, match="too long for"):
            keras_mixer.preprocess_image(image, model)


@pytest.mark.backends
def test_a_batch_that_cannot_be_in_range_is_remarked_on_but_a_black_file_is_not(model, tmp_path, rng):
    loaded = keras_mixer.load(holders(model, "keras", tmp_path)[0])
    images = rng.integers(0, 256, (3, 16, 24, 3))
    loaded.probabilities(images)
    for scaled in (images / 255, images / 127.5 - 1):
        with pytest.warns(UserWarning, match=r"the model expects 0 \(black\) to 255 \(white\)"):
            loaded.probabilities(scaled)
    loaded.predict(encode(rng.integers(0, 3, (16, 24, 3), dtype=np.uint8), "PNG"))  # a camera behind its cap


def foreign_onnx(path, description=None):
    """A classifier of channels-first images, as PyTorch writes them."""
    import onnx

    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", ["N", 3, 16, 24]), ("probabilities", ["N", 10]))
    ]
    nodes = [
        onnx.helper.make_node("Flatten", ["image"], ["row"], axis=1),
        onnx.helper.make_node("Gather", ["row", "ten"], ["probabilities"], axis=1),
    ]
    ten = onnx.helper.make_tensor("ten", onnx.TensorProto.INT64, [10], range(10))
    graph = onnx.helper.make_graph(nodes, "foreign", tensors[:1], tensors[1:], [ten])
    written = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if description:
        onnx.helper.set_model_props(written, {METADATA_KEY: json.dumps(description)})
    onnx.save(written, str(path))


def foreign_openvino(path, description=None):
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([-1, 3, 16, 24], np.float32, name="image")
    image.output(0).set_names({"image"})
    row = ops.gather(ops.reshape(image, np.array([0, -1]), True), np.arange(10), np.array(1))
    row.output(0).set_names({"probabilities"})
    written = openvino.Model([row], [image], "foreign")
    if description:
        written.set_rt_info(json.dumps(description), [METADATA_KEY])
    openvino.save_model(written, str(path))


@tensorflow_only
@pytest.mark.parametrize("format", MODULES)
def test_models_of_onnx_and_openvino_that_are_not_ours_are_refused(model, tmp_path, format):
    need(format)
    path = tmp_path / ("model.onnx" if format == "onnx" else "model.xml")
    write = {"onnx": foreign_onnx, "openvino": foreign_openvino}[format]
    write(path)
    with pytest.raises(ValueError, match=r"was not written by this package.*inputs: image \(.*, 3, 16, 24\)\)"):
        keras_mixer.load(path)
    write(path, Predictor.of(model).as_json())
    with pytest.raises(ValueError, match=r"another layout.*Expected image \(B, 16, 24, 3\).*\(.*, 3, 16, 24\)"):
        keras_mixer.load(path)
    write(path, {"class_names": ["a"]})
    with pytest.raises(ValueError, match="the description of the model is damaged"):
        keras_mixer.load(path)


@tensorflow_only
@pytest.mark.parametrize("format", MODULES)
def test_damaged_files_and_missing_runtimes_are_named(model, tmp_path, monkeypatch, format):
    need(format)
    path = holders(model, format, tmp_path)[0]
    if format == "openvino":  # the pair of files may be renamed, and nothing else is needed next to it
        for suffix in (".xml", ".bin"):
            (path / f"model{suffix}").rename(tmp_path / f"other{suffix}")
        path.rmdir()
        path = tmp_path / "other.xml"
    assert keras_mixer.load(path).facts.class_names == model.class_names
    damaged = path.with_suffix(".bin") if format == "openvino" else path
    content = damaged.read_bytes()
    for part in (content[: len(content) // 2], b""):
        damaged.write_bytes(part)
        with pytest.raises(ValueError, match="cannot be read: it is damaged or incomplete"):
            keras_mixer.load(path)
    if format == "openvino":
        damaged.unlink()
        with pytest.raises(ValueError, match=r"other\.xml cannot be read: .*bin file cannot be found"):
            keras_mixer.load(path)
    module = "onnxruntime" if format == "onnx" else "openvino"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"This needs {module}: pip install 'keras-mixer\[{format}\]'"):
        keras_mixer.load(path)
