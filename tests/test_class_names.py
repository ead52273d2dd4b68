"""Names of classes are lines of text, one per class, however they come in, and files of one name per line agree."""

import keras
import numpy as np
import pytest
from image_files import encode, photographs
from small_runs import SMALL

import keras_mixer
from keras_mixer.export.predictor import Predictor
from keras_mixer.inspect.saliency import write_saliency
from keras_mixer.weights.imagenet_classes import imagenet_classes

IMAGES, LABELS = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), "uint8"), np.arange(20) % 2
QUICK = SMALL | {"epochs": 1, "global_batch_size": 8, "warmup_steps": 1}
GIVEN, CLEAN = ["red\r\npanda", "\tpolar\N{LINE SEPARATOR}bear "], ("red panda", "polar bear")
WRONG = [
    (["cat", " \n"], r"must be text, got ' \\n' for class 1"),
    (["cat", "cat "], "must differ, got 'cat' more than once"),
    ([b"cat", b"dog"], "must be text, got b'cat' for class 0"),
    ("ab", "must be a list of names in label order, got 'ab'"),
    ({"cat": 0, "dog": 1}, r"must be a list of names in label order, got \{'cat'"),
]


def fit(folder, class_names):
    data = {"train": (IMAGES, LABELS), "class_names": class_names}
    return keras_mixer.fit("digits", workdir=folder, log=lambda line: None, **QUICK, **data)


@pytest.mark.parametrize(("names", "message"), WRONG)
def test_what_is_no_name_is_refused(names, message, tiny_mixer, tmp_path):
    for refuse in (
        lambda: fit(tmp_path / "run", names),
        lambda: Predictor.of(tiny_mixer(num_blocks=1, classes=2), class_names=names),  # and so by every export
    ):
        with pytest.raises(ValueError, match=f"class_names {message}"):
            refuse()
    assert not list(tmp_path.iterdir())


def test_names_are_cleaned_wherever_they_are_given(tiny_mixer, tmp_path):
    assert fit(tmp_path / "run", np.array(GIVEN)).model.class_names == CLEAN
    assert keras.saving.load_model(tmp_path / "run" / "model.keras").class_names == CLEAN
    model, own_head = tiny_mixer(num_blocks=1, classes=2), tiny_mixer(num_blocks=1, include_top=False, pooling="avg")
    own_head = keras.Model(own_head.input, keras.layers.Dense(2)(own_head.output))
    assert Predictor.of(model, class_names=iter([3, np.int64(7)])).class_names == ("3", "7")
    model.class_names = own_head.class_names = GIVEN
    assert Predictor.of(model).class_names == Predictor.of(own_head).class_names == CLEAN


def test_the_names_of_imagenet_may_repeat_and_their_classes_stay_apart(tiny_mixer, tmp_path):
    names = [name for _, name in imagenet_classes(1000)]
    _, second = (label for label, name in enumerate(names) if name == "crane")
    model = tiny_mixer(num_blocks=1, classes=1000)
    model.class_names = names
    model.get_layer("head").bias.assign(np.eye(1000)[second] * 100)
    (tmp_path / "image.png").write_bytes(encode(photographs()[0], "PNG"))
    for given in ("crane", None):  # of two classes with the name, the more probable one
        assert write_saliency(model, tmp_path / "image.png", tmp_path / f"{given}.png", given) == "crane"
    assert (tmp_path / "crane.png").read_bytes() == (tmp_path / "None.png").read_bytes()
