import json
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data.splits import Split
from keras_mixer.export.predictor import Predictor
from keras_mixer.inspect.report import most_confident_mistakes, write_report


@pytest.fixture
def write_run(tiny_mixer, tmp_path):
    """Writes the files of a finished run on the digits."""
    results = {"accuracy": 0.875, "top5": 1.0, "loss": 0.25, "test_images": 8, "part": "test", "image_size": [16, 16]}
    results |= {"evaluation_crop": "resize", "seconds": 5.2, "seed": 3, "backend": "tensorflow"}

    def write(name, class_names, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        model = tiny_mixer(classes=len(class_names))
        model.class_names, model.evaluation_crop = class_names, "resize"
        model.save(folder / "model.keras")
        (folder / "results.json").write_text(json.dumps(results | {"versions": {"keras": "3"}}))
        (folder / "config.json").write_text(json.dumps({"name": "digits", "data": "digits"} | config))
        return folder

    return write


def test_without_test_images_the_page_shows_the_rest_and_settings_that_differ(write_run, tmp_path):
    names = ("<b>cat</b>", "dog")
    runs = [write_run("a <run>", names, steps=None), write_run("other", names, steps=None, seed=7)]
    page = write_report(runs, tmp_path / "plain.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "could not be read: Data &#39;digits&#39; has other classes than the model: 10 (0, 1, 2, ...)" in page
    assert "Confusion matrix" not in page
    assert "<strong>87.50 %</strong>± 11.69 %" in page  # sqrt(p (1 - p) / 8)
    assert "<title>a &lt;run&gt;" in page
    assert re.search(r'<th scope="row">seed</th><td>0</td><td>7</td>', page)
    assert '<th scope="row">steps' not in page


def test_runs_are_compared_and_their_mistakes_are_shown(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_mixer.inspect.report.with_classes_of", lambda source, names: source)  # of other names
    names, config = ("<i>0</i>", *"123456789"), {"image_size": 16, "seed": 7}
    runs = [write_run("one/run", names, **config), write_run("two/run", names, **config)]
    page = write_report(runs, tmp_path / "twice.html", images=90).read_text()
    assert page.count("<figure>") == 24
    assert "Settings that differ" not in page
    assert f"{runs[1]}</a>" in page  # equal names: the whole path
    assert re.search("12 of [78][0-9] mistakes on 90 of the 360 test images", page)  # random weights
    assert page.count('alt="Confusion matrix') == 2
    assert "&lt;i&gt;0&lt;/i&gt;" in page  # names are text, never markup
    assert "<i>0" not in page
    assert len(re.findall(r'<th scope="row">[^<]*</th><td class="number">\d+</td><td class="number">', page)) == 20
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert all("alt=" in image for image in re.findall("<img[^>]*>", page))


def test_mistakes_come_most_confident_first_with_their_images(tiny_mixer, rng):
    model = tiny_mixer(classes=3)
    model.class_names, model.evaluation_crop = ("a", "b", "c"), "resize"
    predictor = Predictor.of(model)
    pixels, labels = rng.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2, 0])
    encoded = np.array([tf.io.encode_png(image).numpy() for image in pixels])
    elements = tf.data.Dataset.from_tensor_slices({"image": encoded, "label": labels})
    probabilities = predictor.probabilities(pixels)
    guessed = probabilities.argmax(1)
    confusion, found = most_confident_mistakes(predictor, Split(7, 3, elements, read=lambda element: element))
    assert confusion.sum() == 7
    assert np.trace(confusion) == (guessed == labels).sum()
    wrong = [i for i in np.argsort(-probabilities.max(1)) if guessed[i] != labels[i]]
    assert [mistake.position for mistake in found] == wrong
    for mistake in found:
        i = mistake.position
        assert (mistake.label, mistake.guess) == (labels[i], guessed[i])
        np.testing.assert_array_equal(mistake.pixels, pixels[i])
        expected = probabilities[i, guessed[i]], probabilities[i, labels[i]]
        np.testing.assert_allclose((mistake.confidence, mistake.of_label), expected, atol=1e-6)


def test_mistakes_leave_no_page(write_run, tmp_path):
    run, there = write_run("run", ("a", "b")), tmp_path / "there.html"
    there.write_text("precious")
    for runs, output, message in [
        ([], "r.html", "at least one"),
        ([tmp_path], "r.html", "not a finished run"),
        ([run], "r.pdf", "ending in .html"),
        ([run], "there.html", "not overwritten"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_report(runs, tmp_path / output)
    assert not list(tmp_path.glob("r.*"))
