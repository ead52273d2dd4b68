"""Files of ONNX Runtime and OpenVINO: what `predict` reads, and what it refuses."""

import json
import sys

import keras
import numpy as np
import pytest
from image_files import encode, evaluated, photographs

from keras_mixer import cli
from keras_mixer.description import describe
from keras_mixer.export import interchange
from keras_mixer.export.loading import load_predictor
from keras_mixer.export.runtimes import DESCRIPTION, METADATA_KEY, open_export

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
MODULES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "openvino": ("openvino",)}


def need(format):
    for module in MODULES[format]:
        pytest.importorskip(module, reason=f"needs extra [{format}]")


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
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if description:
        onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(description)})
    onnx.save(model, str(path))


def foreign_openvino(path, description=None, shape=(3, 16, 24)):
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([-1, *shape], np.float32, name="image")
    image.output(0).set_names({"image"})
    row = ops.gather(ops.reshape(image, np.array([0, -1]), True), np.arange(10), np.array(1))
    row.output(0).set_names({"probabilities"})
    model = openvino.Model([row], [image], "foreign")
    if description:
        model.set_rt_info(json.dumps(description), [METADATA_KEY])
    openvino.save_model(model, str(path))


@pytest.mark.parametrize("format", MODULES)
def test_predict_reads_onnx_and_openvino_and_refuses_damaged_ones(classifier, tmp_path, capsys, monkeypatch, format):
    need(format)
    classifier.evaluation_crop = "resize-crop"
    path = getattr(interchange, f"export_{format}")(classifier, tmp_path / f"model.{format}")
    files, names = [], []
    for i, photograph in enumerate(photographs()):
        files.append(tmp_path / f"{i}.png")
        files[-1].write_bytes(encode(photograph, "PNG"))
        names.append(str(files[-1]))
    images = np.stack([evaluated(file.read_bytes(), (16, 24), "resize-crop") for file in files])
    expected = keras.ops.convert_to_numpy(classifier(images))
    forms = [path] if format == "onnx" else [path, path / "model.xml"]
    for form in forms:
        assert cli.main(["predict", str(form), *names, "--top-k", "2", "--json"]) == 0
        for image, row, prediction in zip(names, expected, json.loads(capsys.readouterr().out), strict=True):
            best = np.argsort(-row)[:2]
            assert (prediction["image"], prediction["labels"]) == (image, [f"class {i}" for i in best])
            np.testing.assert_allclose(prediction["probabilities"], row[best], atol=1e-5)

    if format == "openvino":  # the pair of files may be renamed, and nothing else is needed next to it
        for suffix in (".xml", ".bin"):
            (path / f"model{suffix}").rename(tmp_path / f"other{suffix}")
        path.rmdir()
        path = tmp_path / "other.xml"
        assert load_predictor(path).description.class_names == classifier.class_names
    damaged = path.with_suffix(".bin") if format == "openvino" else path
    content = damaged.read_bytes()
    for part in (content[: len(content) // 2], b""):
        damaged.write_bytes(part)
        assert cli.main(["predict", str(path), *names]) == 2
        assert "cannot be read: it is damaged or incomplete" in capsys.readouterr().err
    if format == "openvino":
        damaged.unlink()
        with pytest.raises(ValueError, match=r"lacks its weights: there is no .*other\.bin"):
            load_predictor(path)
    module = MODULES[format][-1] if format == "openvino" else "onnxruntime"
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["predict", str(path), *names]) == 2
    assert f"This needs {module}: pip install 'keras-mixer[{format}]'" in capsys.readouterr().err


@pytest.mark.parametrize("format", MODULES)
def test_models_of_onnx_and_openvino_that_are_not_ours_are_refused(classifier, tmp_path, format):
    need(format)
    path = tmp_path / ("model.onnx" if format == "onnx" else "model.xml")
    write = {"onnx": foreign_onnx, "openvino": foreign_openvino}[format]
    write(path)
    with pytest.raises(ValueError, match=r"was not written by this package.*inputs: image \(.*, 3, 16, 24\)\)"):
        load_predictor(path)
    write(path, describe(classifier).as_json() | {"pixel_range": [0, 255]})
    with pytest.raises(ValueError, match=r"another layout.*Expected image \(B, 16, 24, 3\).*\(.*, 3, 16, 24\)"):
        load_predictor(path)
    write(path, {"class_names": ["a"]})
    with pytest.raises(ValueError, match="the description of the model is damaged"):
        load_predictor(path)


def test_openvino_folders_of_version_0_1_0_are_read(classifier, tmp_path):
    need("openvino")
    path = tmp_path / "model.xml"
    foreign_openvino(path, shape=(16, 24, 3))
    with pytest.raises(ValueError, match="its rt_info lacks 'keras_mixer'"):
        open_export(tmp_path)
    (tmp_path / DESCRIPTION).write_text(json.dumps(describe(classifier).as_json()))
    assert open_export(tmp_path).description.evaluation_crop == "resmall-crop"
