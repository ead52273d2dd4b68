import json
import re
import shutil

import pytest

from keras_mixer.inspect.report import write_report

CONFUSION = [[3, 1], [0, 4]]


@pytest.fixture
def run(tiny_mixer, tmp_path):
    """The files of a finished run."""
    folder = tmp_path / "a <run>"
    folder.mkdir()
    model = tiny_mixer(classes=2)
    model.class_names = ("<b>cat</b>", "dog")
    model.save(folder / "model.keras")
    results = {"accuracy": 0.875, "top5": 1.0, "loss": 0.25, "test_images": 8, "part": "test"}
    results |= {"evaluation_crop": "resize"}
    results |= {"image_size": [16, 16], "seconds": 5.2, "seed": 3, "backend": "tensorflow", "versions": {"keras": "3"}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.json").write_text(json.dumps({"name": "digits", "data": "digits", "steps": None}))
    (folder / "metrics.csv").write_text("epoch,accuracy,val_accuracy,loss,step\n0,0.1,0.2,2.3,10\n1,0.5,0.6,1.1,20\n")
    return folder


def test_the_page_stands_alone_and_shows_what_is_there(run, tmp_path):
    plain = write_report([run], tmp_path / "plain.html").read_text()
    assert "could not be read: Data &#39;digits&#39; has other classes than the model: 10 (0, 1, 2, ...)" in plain
    assert "Confusion matrix" not in plain
    assert "Few-shot" not in plain
    evaluation = {"accuracy": 0.875, "top5": 1.0, "loss": 0.25, "test_images": 8, "data": "digits"}
    evaluation |= {"evaluation_crop": "resize", "confusion": CONFUSION, "class_names": ["<b>cat</b>", "dog"]}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    few_shot = {"accuracy": {"1": [0.5, 0.7]}, "data": "digits", "layer": "pre_logits", "crop": "resize"}
    (run / "fewshot.json").write_text(json.dumps(few_shot))
    page = write_report([run, run], tmp_path / "full.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "<b>87.50 %</b> ± 11.69 %" in page  # sqrt(p (1 - p) / 8)
    assert "60.00 %" in page
    assert page.count("<svg") == 2
    assert "% of the units are smoother than 95 % of random ones" in page
    assert "Settings that differ" not in page
    # names are text, never markup
    cells = r'<th scope="row">&lt;b&gt;cat&lt;/b&gt;</th>\s*<td class="diagonal dark" style="--shade: 87%">3</td>'
    assert re.search(cells + r'\s*<td class="" style="--shade: 50%">1</td>', page)
    recall = r'<th scope="row">dog</th><td class="number">4</td><td class="number">80.00 %</td>\s*'
    assert re.search(recall + r'<td class="number">100.00 %</td>', page)
    assert "<b>cat" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert all("alt=" in image for image in re.findall("<img[^>]*>", page))


def test_the_models_own_test_images_are_shown_and_counted(tiny_mixer, run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    model = tiny_mixer()
    model.class_names, model.evaluation_crop = tuple("0123456789"), "resize"
    model.save(other / "model.keras")
    (other / "config.json").write_text(json.dumps({"name": "digits", "data": "digits", "image_size": 16, "seed": 7}))
    many = {"data": "other", "class_names": [f"class {i}" for i in range(25)]}
    many["confusion"] = [[4 * (i == j) + (i == 7 and j == 9) for j in range(25)] for i in range(25)]
    (run / "evaluation.json").write_text(json.dumps(many))
    page = write_report([run, other], tmp_path / "report.html", images=90).read_text()
    assert "<td>class 7</td><td>class 9</td>" in page  # a figure and a list instead of a large table
    assert page.index('<th scope="row">class 7</th>') < page.index('<th scope="row">class 0</th>')
    assert "The other 5 classes" in page
    assert "from 90 of the 360 test images" in page
    assert page.count("<figure>") == 12 + page.split("Least confident")[1].count("<figure>")
    assert re.search("12 of [78][0-9] mistakes on 90 test images", page)  # random weights
    assert "90 images of scikit-learn digits" in page
    assert "speak for" in page
    assert re.search(r'<th scope="row">seed</th><td>not set</td><td>7</td>', page)


def test_mistakes_leave_no_page(run, tmp_path):
    (tmp_path / "there.html").write_text("precious")
    for runs, output, message in [
        ([], "r.html", "at least one"),
        ([tmp_path], "r.html", "not a finished run"),
        ([run], "r.pdf", "ending in .html"),
        ([run], "there.html", "not overwritten"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_report(runs, tmp_path / output)
    assert not list(tmp_path.glob("r.*"))
