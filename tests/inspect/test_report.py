import json
import re

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
    results = {"accuracy": 0.875, "top5": 1.0, "loss": 0.25, "test_images": 8, "evaluation_crop": "resize"}
    results |= {"image_size": [16, 16], "seconds": 5.2, "seed": 3, "backend": "tensorflow", "versions": {"keras": "3"}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.json").write_text(json.dumps({"name": "digits", "data": "digits", "steps": None}))
    (folder / "metrics.csv").write_text("epoch,accuracy,val_accuracy,loss,step\n0,0.1,0.2,2.3,10\n1,0.5,0.6,1.1,20\n")
    return folder


def test_the_page_stands_alone_and_shows_what_is_there(run, tmp_path):
    plain = write_report([run], tmp_path / "plain.html").read_text()
    assert "No confusion" in plain
    assert "Few-shot" not in plain
    evaluation = {"accuracy": 0.875, "top5": 1.0, "loss": 0.25, "test_images": 8, "data": "digits"}
    evaluation |= {"evaluation_crop": "resize", "confusion": CONFUSION, "class_names": ["<b>cat</b>", "dog"]}
    evaluation |= {"per_class": {"<b>cat</b>": 0.75, "dog": None}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    few_shot = {"accuracy": {"1": [0.5, 0.7]}, "data": "digits", "layer": "pre_logits", "crop": "resize"}
    (run / "fewshot.json").write_text(json.dumps(few_shot))
    page = write_report([run, run], tmp_path / "full.html").read_text()
    assert "87.50 %" in page
    assert "60.00 %" in page
    assert "no images" in page
    assert '&lt;b&gt;cat&lt;/b&gt;</td><td>dog</td><td class="number">1</td>' in page  # names are text, never markup
    assert "<b>cat" not in page
    assert page.count("data:image/svg+xml;base64,") == 2 + 2
    assert page.count("data:image/png;base64,") == 4
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)


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
