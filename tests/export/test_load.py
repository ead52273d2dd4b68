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

MODULES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}


@pytest.fixture
def model(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize-crop"
    return model


@pytest.fixture
def run(model, tmp_path):
    """The folder of a run, as far as it is needed to load the model."""
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "model.keras")
    return tmp_path / "run"


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.jpg"
    path.write_bytes(turned(photographs()[0]))
    return path


@pytest.mark.backends
def test_a_run_and_its_file_predict_as_the_model(model, run, photograph, capsys):
    upright = np.rot90(tf.io.decode_jpeg(photograph.read_bytes()).numpy(), -1)
    image = np.asarray(evaluated(encode(upright, "PNG"), (16, 24), "resize-crop"))
    np.testing.assert_array_equal(keras_mixer.preprocess_image(photograph, model), image)
    expected = keras.ops.convert_to_numpy(model(image[None]))[0]
    best = np.argsort(-expected)[:3]
    for path in (run, run / "model.keras"):
        loaded = keras_mixer.load(path)
        for given in (photograph, photograph.read_bytes(), upright):
            prediction = loaded.predict(given, top_k=3)
            assert prediction.labels == tuple("abcdefghij"[i] for i in best)
            np.testing.assert_allclose(prediction.probabilities, expected[best], atol=1e-5)
        np.testing.assert_allclose(loaded.probabilities(image[None])[0], expected, atol=1e-5)
        np.testing.assert_array_equal(keras_mixer.preprocess_image(upright, loaded), image)
    assert cli.main(["predict", str(path), str(photograph), "--top-k", "2", "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["image"], printed["labels"]) == (str(photograph), list(prediction.labels[:2]))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
def test_in_bfloat16_the_weights_are_stored_so_and_the_answers_close(model, run, rng, photograph, capsys, tmp_path):
    pixels = rng.integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
    exact, loaded = keras_mixer.load(run).probabilities(pixels), keras_mixer.load(run, precision="bfloat16")
    assert {weight.dtype for weight in loaded.model.get_layer("mixer_block_0").weights} == {"bfloat16"}
    found = loaded.probabilities(pixels)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.02
    assert cli.main(["predict", str(run), str(photograph), "--precision", "bfloat16", "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert printed["probabilities"] == pytest.approx(loaded.predict(photograph).probabilities)
    with pytest.raises(ValueError, match="precision must be 'float32' or 'bfloat16', got 'float16'"):
        keras_mixer.load(run, precision="float16")
    export = keras_mixer.export_tflite(model, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"is for runs and \.keras files, not for .*a\.tflite"):
        keras_mixer.load(export, precision="bfloat16")


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
def test_useless_images_are_refused(model, run, tmp_path):
    loaded = keras_mixer.load(run)
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
        assert not keras_mixer.preprocess_image(image, model).any()


@pytest.mark.backends
def test_a_batch_that_cannot_be_in_range_is_remarked_on_but_a_black_file_is_not(run, rng):
    loaded = keras_mixer.load(run)
    images = rng.integers(0, 256, (3, 16, 24, 3))
    loaded.probabilities(images)
    for scaled in (images / 255, images / 127.5 - 1):
        with pytest.warns(UserWarning, match=r"the model expects 0 \(black\) to 255 \(white\)"):
            loaded.probabilities(scaled)
    loaded.predict(encode(rng.integers(0, 3, (16, 24, 3), dtype=np.uint8), "PNG"))  # a camera behind its cap


def write_onnx(path, description=None, shape=(3, 16, 24)):
    """A classifier; without another shape of channels-first images, as PyTorch writes them."""
    import onnx

    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *sides])
        for name, sides in (("image", shape), ("probabilities", [10]))
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


def write_openvino(path, description=None, shape=(3, 16, 24)):
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([-1, *shape], np.float32, name="image")
    image.output(0).set_names({"image"})
    row = ops.gather(ops.reshape(image, np.array([0, -1]), True), np.arange(10), np.array(1))
    row.output(0).set_names({"probabilities"})
    written = openvino.Model([row], [image], "foreign")
    if description:
        written.set_rt_info(json.dumps(description), [METADATA_KEY])
    openvino.save_model(written, str(path))


@pytest.mark.parametrize("format", MODULES)
def test_what_is_not_ours_or_damaged_or_lacks_its_runtime_is_named(model, tmp_path, monkeypatch, format):
    for module in MODULES[format]:
        pytest.importorskip(module, reason=f"needs extra [{format}]")
    path = tmp_path / ("model.onnx" if format == "onnx" else "other.xml")
    write, ours = {"onnx": write_onnx, "openvino": write_openvino}[format], Predictor.of(model).as_json()

    def refused(message):
        with pytest.raises(ValueError, match=message):
            keras_mixer.load(path)

    write(path)
    refused(r"was not written by this package \(it has image \(.*, 3, 16, 24\), probabilities \(.*, 10\)\)")
    write(path, ours)
    refused(r"another layout.*Expected image \(B, 16, 24, 3\).*\(.*, 3, 16, 24\)")
    write(path, {"class_names": ["a"]})
    refused("the description of the model is damaged")
    write(path, ours, shape=(16, 24, 3))
    assert keras_mixer.load(path).facts.class_names == model.class_names
    damaged = path.with_suffix(".bin") if format == "openvino" else path
    content = damaged.read_bytes()
    for part in (content[: len(content) // 2], b""):
        damaged.write_bytes(part)
        refused("cannot be read: it is damaged or incomplete")
    if format == "openvino":
        damaged.unlink()
        refused(r"other\.xml cannot be read: .*bin file cannot be found")
    module = MODULES[format][-1]
    monkeypatch.setitem(sys.modules, module, None)
    refused(rf"This needs {module}: pip install 'keras-mixer\[{format}\]'")
