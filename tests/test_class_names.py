"""Names of classes are lines of text, one per class, however they come in, and files of one name per line agree."""

import json
import zipfile

import keras
import numpy as np
import pytest
from image_files import encode, photographs
from small_runs import SMALL

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.sources import load_source
from keras_mixer.export.predictor import Predictor
from keras_mixer.imagenet_classes import imagenet_classes
from keras_mixer.inspect.saliency import write_saliency

IMAGES, LABELS = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), "uint8"), np.arange(20) % 2
QUICK = SMALL | {"epochs": 1, "global_batch_size": 8, "warmup_steps": 1}
CLEAN = [
    (["cat\n", "\tdog "], ("cat", "dog")),
    (["red\r\npanda", "polar\N{LINE SEPARATOR}bear"], ("red panda", "polar bear")),
    ([3, np.int64(7)], ("3", "7")),
    (np.array(["Katze", "Hund"]), ("Katze", "Hund")),
    ((name for name in ("a", "b")), ("a", "b")),
]
WRONG = [
    (["cat", " \n"], r"must be text, got ' \\n' for class 1"),
    (["cat", "cat "], "must differ, got 'cat' for the classes 0 and 1"),
    ([1, "1"], "must differ, got '1'"),
    ([b"cat", b"dog"], "must be text, got b'cat' for class 0"),
    (["cat", None], "must be text, got None for class 1"),
    ([0.5, 1.5], "must be text, got 0.5"),
    ("ab", "must be a list of names in label order, got 'ab'"),
    ({"cat": 0, "dog": 1}, r"must be a list of names in label order, got \{'cat'"),
    (2, "must be a list of names in label order, got 2"),
]
tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="written by TensorFlow")


def fit(folder, **options):
    return keras_mixer.fit("digits", workdir=folder, log=lambda line: None, **(QUICK | options))


def test_training_cleans_names(tmp_path):
    names, clean = CLEAN[0]
    model = fit(tmp_path / "run", train=(IMAGES, LABELS), class_names=names).model
    assert model.class_names == clean
    assert keras.saving.load_model(tmp_path / "run" / "model.keras").class_names == clean


@pytest.mark.parametrize(("names", "message"), WRONG)
def test_training_refuses_what_is_no_name(names, message, tmp_path):
    with pytest.raises(ValueError, match=f"class_names {message}"):
        fit(tmp_path / "run", train=(IMAGES, LABELS), class_names=names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("names", "clean"), CLEAN)
def test_names_are_cleaned_wherever_they_are_given(names, clean, tiny_mixer):
    names = list(names)
    model, own_head = tiny_mixer(num_blocks=1, classes=2), tiny_mixer(num_blocks=1, include_top=False, pooling="avg")
    own_head = keras.Model(own_head.input, keras.layers.Dense(2)(own_head.output))
    assert Predictor.of(model, class_names=names).class_names == clean
    model.class_names = own_head.class_names = names
    assert Predictor.of(model).class_names == Predictor.of(own_head).class_names == clean


@tensorflow_only
def test_exports_contain_clean_names(tiny_mixer, tmp_path):
    names, clean = CLEAN[1]
    model = tiny_mixer(num_blocks=1, classes=2)
    with zipfile.ZipFile(keras_mixer.export_tflite(model, tmp_path / "a.tflite", class_names=names)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(clean)
        assert json.loads(archive.read("keras_mixer.json"))["class_names"] == list(clean)


@tensorflow_only
@pytest.mark.parametrize(("names", "message"), WRONG)
def test_exports_refuse_what_is_no_name(names, message, tiny_mixer, tmp_path):
    with pytest.raises(ValueError, match=f"class_names {message}"):
        keras_mixer.export_saved_model(tiny_mixer(num_blocks=1, classes=2), tmp_path, class_names=names)
    assert not list(tmp_path.iterdir())


def folders(root, *names):
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(10):
            (root / name / f"{number}.png").write_bytes(encode(photographs()[i % 2][number : number + 20, :20], "PNG"))
    return str(root)


def test_names_of_folders_are_cleaned_and_must_differ(tmp_path, capsys):
    data = folders(tmp_path / "images", "red\npanda", " dog ")
    assert load_source(data).class_names == ("dog", "red panda")
    same = folders(tmp_path / "same", "dog", "dog ")
    assert cli.main(["train", "digits", "--data", same, "--workdir", str(tmp_path / "none")]) == 2
    assert "class_names must differ, got 'dog' for the classes 0 and 1" in capsys.readouterr().err


@tensorflow_only
def test_the_names_of_imagenet_may_repeat_and_their_classes_stay_apart(tiny_mixer, tmp_path):
    names = [name for _, name in imagenet_classes(1000)]
    first, second = (label for label, name in enumerate(names) if name == "crane")
    model = tiny_mixer(num_blocks=1, classes=1000)
    path = keras_mixer.export_tflite(model, tmp_path / "model.tflite", class_names=names)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == names
    names[first + 1] = names[first]
    with pytest.raises(ValueError, match=f"must differ, got 'crane' for the classes {first} and {first + 1}"):
        keras_mixer.export_tflite(model, tmp_path / "other.tflite", class_names=names)
    head = model.get_layer("head")
    head.bias.assign(np.eye(1000)[second] * 100)
    model.class_names = tuple(name for _, name in imagenet_classes(1000))
    (tmp_path / "image.png").write_bytes(encode(photographs()[0], "PNG"))
    for given in ("crane", None):  # of two classes with the name, the more probable one
        assert write_saliency(model, tmp_path / "image.png", tmp_path / f"{given}.png", given) == "crane"
    assert (tmp_path / "crane.png").read_bytes() == (tmp_path / "None.png").read_bytes()
