"""Folders as people have them: what is an image, what is left out, and what is asked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import photographs, write_folder
from PIL import Image

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.sources import load_source

TINY = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 16, "image_size": 16}
TINY |= {"patch_size": 8, "global_batch_size": 4, "steps": 2, "warmup_steps": 1, "randaugment_num_ops": 0}
TINY |= {"xla_on_cpu": False}


def fit(folder, workdir, **options):
    return keras_mixer.fit("scratch_small", data=str(folder), workdir=workdir, **(TINY | options))


@pytest.fixture
def listed(tmp_path):
    """What `fit` says about a folder before it finds too few images for a batch."""

    def lines(folder, **options):
        said, too_many = [], {"global_batch_size": 9999, "fit_small_data": False}
        with pytest.raises(ValueError, match="global_batch_size=9999 is more than the"):
            fit(folder, tmp_path / "run", log=said.append, **too_many, **options)
        return [line for line in said if "test images too" not in line]

    return lines


def refused(folder, tmp_path, message, **options):
    with pytest.raises(ValueError, match=message):
        fit(folder, tmp_path / "run", log=[].append, **options)


def test_every_format_gives_the_same_answer_upright(tiny_mixer, tmp_path, capsys):
    pixels = Image.fromarray(photographs()[0][:60, :90]).convert("P", colors=16)
    rgb, exif = pixels.convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for name in ("original.png", "a.tif", "b.webp", "c.ppm", "d.jp2", "e.tga"):
        rgb.save(tmp_path / name, **({"lossless": True} if name == "b.webp" else {}))
    for name in ("palette.bmp", "palette.gif", "palette.png", "bitmap_without_suffix"):
        pixels.save(tmp_path / name, "BMP" if name.startswith("bitmap") else None)
    on_its_side = rgb.transpose(Image.Transpose.ROTATE_90)
    for name, options in {
        "f.png": {},
        "g.webp": {"lossless": True},
        "h.jpg": {"quality": 100, "subsampling": 0},
    }.items():
        on_its_side.save(tmp_path / name, exif=exif, **options)
    files = [str(file) for file in sorted(tmp_path.iterdir())]
    tiny_mixer(num_blocks=1).save(tmp_path / "model.keras")
    assert cli.main(["predict", f"{tmp_path}/model.keras", *files, "--json"]) == 0
    answers = {Path(one["image"]).name: one["probabilities"] for one in json.loads(capsys.readouterr().out)}
    assert len(answers) == 13
    np.testing.assert_allclose(answers.pop("h.jpg"), answers["original.png"], atol=2e-3)
    assert {str(answer) for answer in answers.values()} == {str(answers["original.png"])}


def test_what_is_an_image_is_decided_by_opening_it(tmp_path, listed):
    folder = write_folder(tmp_path / "photos", parts=())
    picture = Image.fromarray(photographs()[0][:40, :40])
    for name, format in [("a.jfif", "JPEG"), ("b.MPO", "MPO"), ("c.TIF", "TIFF"), ("d", "PNG"), ("e.dat", "BMP")]:
        picture.save(folder / "circle" / name, format)
    for i in range(3):
        (folder / "circle" / f"{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "stripe" / "notes.txt").write_text("hello")
    (folder / "README").write_text("hello")
    left_out, classes = listed(folder, test_fraction=0.5)
    assert left_out.endswith(
        "files outside the class folders: 1 (README), files that are not images Pillow can read: 4 (circle/0.HEIC, "
        "circle/1.HEIC, circle/2.HEIC, and 1 more)."
    )
    assert classes == "Images per class (training + test): circle 5 + 6, stripe 3 + 3"


def test_hidden_files_and_links(tmp_path, listed):
    folder = write_folder(tmp_path / "photos", parts=())
    for hidden in ("circle/.ipynb_checkpoints", "circle/@eaDir", "stripe/.Trash-1000", "stripe/__MACOSX", ".git"):
        shutil.copytree(folder / "circle", folder / hidden)
    shutil.copy(folder / "circle" / "0.png", folder / "circle" / "._0.png")
    (folder / "circle" / "Thumbs.db").write_bytes(b"")
    shutil.copytree(folder / "circle", tmp_path / "elsewhere")
    for link, target in [
        ("circle/more", tmp_path / "elsewhere"),
        ("circle/more again", tmp_path / "elsewhere"),
        ("circle/cycle", folder / "circle"),
        ("circle/to itself", folder / "circle" / "to itself"),
        ("stripe/gone.jpg", tmp_path / "gone.jpg"),
        ("stripe/of a file.jpg", tmp_path / "elsewhere" / "1.jpg"),
    ]:
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "stripe" / "pipe.jpg")
    shutil.copy(folder / "circle" / "0.png", os.fsencode(folder / "stripe") + b"/M\xfcnchen.png")
    left_out, classes = listed(folder)
    assert classes == "Images per class (training + test): circle 10 + 2, stripe 6 + 2"
    assert "hidden or system files and folders: 10 (circle/" in left_out
    assert "links to folders already read: 2 (circle/cycle, circle/more again)" in left_out
    assert "broken links, pipes, sockets or devices: 3 (circle/to itself, stripe/" in left_out


def test_a_folder_with_a_name_that_is_not_utf_8_trains(tmp_path):
    folder = write_folder(tmp_path / "photos", images_per_class=3)
    path = os.fsencode(folder / "train" / "circle")
    os.rename(path + b"/0.png", path + b"/M\xfcnchen.png")
    fit(folder, tmp_path / "run", log=[].append)
    os.rename(path, os.fsencode(folder / "train") + b"/M\xfcnchen")
    refused(folder, tmp_path / "other", "class folder .* is not UTF-8")
    refused(os.fsdecode(os.fsencode(folder) + b"\xf6"), tmp_path / "other", "data must be a non-empty string in UTF-8")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("Training", "Testing"), r"has Testing, Training, .* --train-split Training --test-split Testing, or"),
        (("2023", "2024"), r"If circle, stripe are the classes, pass --train-split 2023 --test-split 2024, or put"),
        (("train", "val"), r"has train, val, with .* --train-split train --test-split val, or put"),
        (("train", "Test", "validation"), r"--train-split train --test-split Test or validation, or put"),
        (("Train", "test"), r"--train-split Train --test-split test, or put"),
    ],
)
def test_two_levels_of_folders_are_asked_about(parts, message, tmp_path, listed):
    folder = write_folder(tmp_path / "photos", images_per_class=2, parts=parts)
    refused(folder, tmp_path, message)
    train, test, *others = parts
    *left_out, classes = listed(folder, train_split=train, test_split=test)
    assert classes == "Images per class (training + test): circle 2 + 2, stripe 2 + 2"
    assert left_out == [f"Left out of {folder}: folders: 1 (validation)."] * len(others)


def test_a_class_may_be_called_train_and_have_folders_inside(tmp_path, listed):
    folder = write_folder(tmp_path / "photos", classes=("bus", "train"), parts=())
    (folder / "bus" / "red").mkdir()
    shutil.copy(folder / "bus" / "0.png", folder / "bus" / "red" / "0.png")
    assert listed(folder, test_fraction=0.5) == ["Images per class (training + test): bus 3 + 4, train 3 + 3"]


def test_useless_paths_and_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./fotos", "fotos/", "~/fotos", str(tmp_path / "fotos")):
        refused(name, tmp_path, f"There is no folder {name}")
    refused("fotos", tmp_path, "neither 'digits', nor an existing folder")
    (tmp_path / "photos.zip").write_bytes(b"PK")
    refused("photos.zip", tmp_path, r"got the file photos\.zip\. Unpack")
    folder = tmp_path / "photos"
    (folder / "one").mkdir(parents=True)
    refused(folder, tmp_path, r"only one \(one\)")
    (folder / "two").mkdir()
    refused(folder, tmp_path, "one contains no images")
    (folder / "one" / "a.heic").write_bytes(b"heic")
    refused(folder, tmp_path, "one contains no images")


def test_a_folder_wins_over_the_data_set_of_its_name_and_that_is_said(tmp_path, listed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits" / "checkpoints").mkdir(parents=True)  # of a run, perhaps
    assert listed("digits") == ["Classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]
    shutil.rmtree(tmp_path / "digits")
    write_folder(tmp_path / "digits", parts=("train", "test"))
    said = listed("digits")
    assert said[0] == f"The folder {tmp_path / 'digits'} is used, not the data set 'digits'."
    assert said[-1] == "Images per class (training + test): circle 6 + 6, stripe 6 + 6"


def test_what_spoils_a_result_is_said(tmp_path):
    folder = write_folder(tmp_path / "photos", images_per_class=4)
    said = []
    load_source(str(folder), log=said.append)
    assert not said
    for old, new in ((0, "new"), (1, "other")):
        file = sorted((folder / "train" / "circle").iterdir())[old]
        shutil.copy(file, folder / "test" / "circle" / f"{new}{file.suffix}")
    dark = np.full((16, 16), 4095, np.uint16)
    for file in (folder / "train" / "stripe").iterdir():
        Image.fromarray(dark).save(file.with_suffix(".png"))
    load_source(str(folder), log=said.append)
    assert said[0].startswith("Training images that are test images too: 2 (test/circle/new")
    assert "png has 16 bits per pixel and uses 12: it is almost black. Scale it by 16." in said[1]
