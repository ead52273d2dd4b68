import re

import numpy as np
import pytest

import keras_mixer
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.inspect import report, run_data
from keras_mixer.inspect.figures import confusion_figure, mistakes, write_figure
from keras_mixer.inspect.report import write_report
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.run import read_recipe

CONFUSION = np.array([[5, 0, 3], [1, 0, 0], [0, 2, 8]])


def test_mistakes_are_listed_most_frequent_first_and_every_count_is_drawn_at_its_place(tmp_path):
    assert mistakes(CONFUSION, "abc") == [("a", "c", 3, 3 / 8), ("c", "b", 2, 0.2), ("b", "a", 1, 1.0)]
    figure = confusion_figure(CONFUSION, "abc")
    ax = figure.axes[0]
    written = {(text.get_position()[::-1]): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "5", (0, 2): "3", (1, 0): "1", (2, 1): "2", (2, 2): "8"}
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array())[2], [0, 0.2, 0.8])
    assert write_figure(figure, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in write_figure(figure, tmp_path / "a.svg").read_bytes()


def test_without_test_images_the_page_shows_the_rest_and_settings_that_differ(write_run, tmp_path):
    names = ("<b>cat</b>", "dog")
    runs = [write_run("a <run>", names, steps=None), write_run("other", names, steps=None, seed=7)]
    page = write_report(runs, tmp_path / "plain.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "could not be read: Data &#39;digits&#39; has other classes than the model: 10 (0, 1, 2, and 7 more)" in page
    assert "<strong>87.50 %</strong>± 11.69 %" in page  # sqrt(p (1 - p) / 8)
    assert "/a &lt;run&gt;, " in page
    assert re.search(r'<th scope="row">seed</th><td>0</td><td>7</td>', page)
    assert '<th scope="row">steps' not in page
    for given, output, message in [
        ([], "r.html", "at least one"),
        ([tmp_path], "r.html", "not a finished run"),
        (runs, "r.pdf", "ending in .html"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_report(given, tmp_path / output)
    assert not list(tmp_path.glob("r.*"))


def test_runs_are_compared_and_their_most_confident_mistakes_are_shown(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_data, "with_classes_of", lambda source, *names: source)  # of other names
    monkeypatch.setattr(report, "MOST_MISTAKES", 2)
    names, config = ("<i>0</i>", *"123456789"), {"image_size": 16, "seed": 7}
    runs = [write_run("one/run", names, **config), write_run("two/run", names, **config)]
    page = write_report(runs, tmp_path / "twice.html", images=40).read_text().replace("\N{NO-BREAK SPACE}", " ")
    split = load_recipe_source(read_recipe(runs[0])).test.subsample(40)
    batches = evaluation_batches(split, image_size=(16, 16), batch_size=40, crop="resize")
    ((images, labels),) = batches.as_numpy_iterator()
    found = keras_mixer.load(runs[0]).probabilities(images)
    wrong = np.flatnonzero(found.argmax(1) != labels)
    surest = np.sort(found[wrong].max(1))[:-3:-1]
    assert f"2 of {len(wrong)} mistakes on 40 of the 360 test images" in page
    assert re.findall(r'<span class="wrong">.*?</span> at ([\d.]+) %', page)[:2] == [f"{100 * p:.1f}" for p in surest]
    assert page.count("<figure>") == 4
    assert ">two/run</a>" in page
    assert page.count('alt="Confusion matrix') == 2
    assert "&lt;i&gt;0&lt;/i&gt;" in page  # names are text, never markup
    assert "<i>0" not in page
    assert len(re.findall(r'<th scope="row">[^<]*</th><td class="number">\d+</td><td class="number">', page)) == 20
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert all("alt=" in image for image in re.findall("<img[^>]*>", page))
