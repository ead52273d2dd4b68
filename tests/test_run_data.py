"""The images of a run: its split stays, labels go by name, other data stay apart, damaged files are named."""

import contextlib
import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from image_files import write_folder
from PIL import Image
from small_runs import assert_same_weights, quiet, stopped_at

import keras_mixer
from keras_mixer import cli
from keras_mixer.export import verified

TINY = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 16, "image_size": 16}
TINY |= {"patch_size": 8, "global_batch_size": 4, "steps": 4, "warmup_steps": 1, "randaugment_num_ops": 0}
TINY |= {"xla_on_cpu": False, "evaluation_crop": "resize", "learning_rate": 0.02}
CLASSES = ("circle", "square", "stripe")


def fit(data, workdir, log=quiet, **options):
    return keras_mixer.fit("scratch_small", data=str(data), workdir=workdir, log=log, **(TINY | options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of 3 x 10 images, of which 6 are for testing, a finished run on it and one stopped after two steps."""
    root = tmp_path_factory.mktemp("finished")
    write_folder(root / "photos", images_per_class=10, classes=CLASSES, parts=())
    os.rename(root / "photos" / "square" / "8.png", os.fsencode(root / "photos" / "square") + b"/M\xfcnchen.png")
    with contextlib.chdir(root):
        fit("photos", "run")
        with stopped_at(2):
            fit("photos", "stopped")
    return root


@pytest.fixture
def trained(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_of(part, run="run"):
    rows = csv.DictReader(Path(run, "files.csv").read_text(errors="surrogateescape").splitlines())
    return [Path("photos", row["path"]) for row in rows if row["part"] == part]


@pytest.fixture
def km(capsys):
    def call(words, status=0):
        assert cli.main(words.split()) == status
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return printed.out + printed.err

    return call


def evaluated():
    return json.loads(Path("run", "evaluation.json").read_text())


def test_the_split_belongs_to_the_run(trained, km):
    km("evaluate run")
    before, tests, trains = evaluated(), files_of("test"), files_of("train")
    trains[0].unlink()
    shutil.copytree("photos/square", "photos/bird")
    out = km("evaluate run")
    assert f"missing or changed: {trains[0].relative_to('photos')}. 6 are tested, 6 were rec" in out
    assert evaluated() == before
    for file in tests:
        file.unlink()
    assert "None of the test images of run is left in photos" in km("evaluate run", status=2)
    shutil.rmtree("photos")
    assert "There is no image folder photos" in km("evaluate run", status=2)


def test_other_images_of_the_same_names_and_sizes_are_other_data(tmp_path, monkeypatch, km):
    monkeypatch.chdir(tmp_path)
    for folder, colors in {"a": (9, 200), "b": (200, 9)}.items():
        for name, color in zip(("cat", "dog"), colors, strict=True):
            Path(folder, name).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (16, 16), (color, i, 0)).save(Path(folder, name, f"{i}.bmp"))
    fit("a", "run", holdout=0.25)
    assert [len(files_of(part)) for part in ("train", "test")] == [12, 4]
    shutil.copytree("a", "moved")
    assert "4 held-out" in km("evaluate run --data moved")
    assert "20 test" in km("evaluate run --data b --output b.json")
    fit("b", "other", (said := []).append, weights="run")  # b has the images of a, under other names
    in_a, in_b = files_of("train", "run"), files_of("test", "other")
    learned, tested = ({Path(d, *file.parts[1:]).read_bytes() for file in f} for d, f in (("a", in_a), ("b", in_b)))
    known = f"run learned {len(learned & tested)} of the {len(tested)} test images of this run: the accuracy may be too"
    assert known in "\n".join(said)
    with pytest.raises(ValueError, match="another configuration"):
        fit("b", "run", holdout=0.25)


def test_a_run_resumes_in_a_moved_folder_without_opening_its_images(trained, monkeypatch):
    whole = fit("photos", "run")  # finished: only loaded
    shutil.move("photos", "elsewhere")
    opened, said = [], []
    monkeypatch.setattr(Image, "open", opened.append)
    resumed = fit(trained / "elsewhere", "stopped", said.append)
    assert "Resuming after step 2 of 4." in said
    assert_same_weights(whole.model, resumed.model)
    assert fit("elsewhere/", "stopped").metrics == resumed.metrics  # finished: only loaded
    assert not opened


def test_a_run_does_not_resume_on_changed_images(trained):
    test, train = files_of("test", "stopped")[0], files_of("train", "stopped")[0]
    kept = train.read_bytes()
    Path("photos/circle/notes.txt").write_text("not an image")
    shutil.copy(train, "photos/circle/new.png")
    train.write_bytes(kept + b" ")
    test.rename("photos/moved.png")
    gone, big = (path.relative_to("photos") for path in (test, train))
    with pytest.raises(ValueError, match=f"missing or changed: ({gone}, {big}|{big}, {gone}). Restore them"):
        fit("photos", "stopped")
    train.write_bytes(kept[:-30] + bytes(30))
    Path("photos/moved.png").rename(test)
    with pytest.raises(ValueError, match=rf"missing or changed: {big}\."):
        fit("photos", "stopped", skip_corrupt=True)
    train.write_bytes(kept)
    assert_same_weights(fit("photos", "stopped").model, fit("photos", "run").model)  # without the new image


def test_labels_go_by_name_and_other_data_stay_apart(trained, km, monkeypatch):
    km("evaluate run")
    before = evaluated()
    shutil.copytree("photos", "renamed")
    for name in ("circle", "stripe"):
        Path("renamed", name).rename(f"renamed/{name.title()}")
    message = r"Data 'renamed' has other classes than the model: 3 (Circle, Stripe, square) and 3 (circle, square"
    assert message in km("evaluate run --data renamed", status=2)
    write_folder(trained / "fewer", images_per_class=4, classes=CLASSES[1:], parts=("train", "test", "val"))
    out = km("evaluate run --data fewer --output fewer.json")
    assert "fewer has 2 of the 3 classes of the model: square, stripe." in out
    fewer = json.loads(Path("fewer.json").read_text())
    assert (fewer["test_images"], fewer["class_names"], fewer["confusion"][0]) == (8, list(CLASSES), [0, 0, 0])
    for name in ("photos/", shutil.copytree("photos", "copy")):  # its own, spelled or placed anew
        Path("run/evaluation.json").unlink()
        km(f"evaluate run --data {name}")
        assert evaluated() | {"data": "photos"} == before

    def compare(model, name, path, split, **options):  # on which images, is all that matters
        raise ValueError(f"{split.size} images")

    monkeypatch.setattr(verified, "export", compare)
    for options, told in {
        "": "6 images",
        " --data renamed": message,
        " --data fewer --test-split val": "8 images",
        " --test-split none": "no folder photos/none",
    }.items():
        assert told in km(f"export run --format tflite{options}", status=2)


def test_damaged_files_are_named_wherever_data_are_read(trained, km):
    for file in Path("photos").rglob("*.jpg"):  # their headers stay, and their sizes, which are recorded
        content = file.read_bytes()
        file.write_bytes(content[:700] + bytes(len(content) - 700))
    tiny = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in TINY.items())
    for command in (
        "evaluate run",
        "export run --format tflite --quantization int8",
        "fewshot run photos --shots 2 --seeds 0 --train-split a --output f.json",
        "features run photos --part train --output f.npz",
        f"sweep scratch_small {tiny} --data photos --learning-rates 0.01 --holdout 0.2 --skip-final --workdir sweep",
    ):
        err = km(command, status=2).splitlines()[-17:]
        assert any("images cannot be used:" in line for line in err), command
        assert "Fix or remove such files, or leave them out with --skip-corrupt." in err[-1]
        km(f"{command} --skip-corrupt")
    km("report run --output report.html")
    assert "cannot be used: photos/" in Path("report.html").read_text().replace("\n  ", " ")


def test_the_answers_on_good_files_are_given(trained, km):
    good = next(Path("photos", "circle").glob("*.png"))
    Path("empty.jpg").write_bytes(b"")
    Path("cut.png").write_bytes(good.read_bytes()[:200])
    shutil.copytree("photos/square", "folder/deeper", ignore=shutil.ignore_patterns("*.jpg", "[1-9M]*"))
    Path("folder", "notes.txt").write_text("not an image")
    printed = km(f"predict run {good} empty.jpg cut.png missing.png folder --json", status=1)
    answers, end = json.JSONDecoder().raw_decode(printed)
    assert [answer["image"] for answer in answers] == [str(good), "folder/deeper/0.png"]
    errors = [line for line in printed[end:].splitlines() if line.startswith("error: ")]
    assert errors.pop(1).startswith("error: cut.png: ")
    assert errors == ["error: empty.jpg: empty", "error: There is no image file missing.png."]
