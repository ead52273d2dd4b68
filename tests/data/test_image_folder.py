"""Folders as people have them: what is an image, what is left out, and what is asked."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import photographs, write_folder
from PIL import Image

from keras_mixer import cli
from keras_mixer.data.decode import decode_image
from keras_mixer.data.sources import load_source, with_classes_of


def listed(folder, **options):
    """What is said about a folder, its classes last."""
    said = []
    source = load_source(str(folder), log=said.append, **options)
    return [line for line in said if "test images too" not in line] + [source.classes()]


def refused(folder, message, **options):
    with pytest.raises(ValueError, match=message):
        load_source(str(folder), log=[].append, **options)


def test_every_format_gives_the_same_answer_upright(tiny_mixer, tmp_path, capsys):
    pixels = Image.fromarray(photographs()[0][:60, :90]).convert("P", colors=16)
    rgb, exif = pixels.convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    for name in ("original.png", "a.tif", "b.webp", "c.ppm", "d.jp2", "e.tga"):
        rgb.save(tmp_path / name, **({"lossless": True} if name == "b.webp" else {}))
    for name in ("palette.bmp", "palette.gif", "palette.png", "bitmap_without_suffix"):
        pixels.save(tmp_path / name, "BMP" if name.startswith("bitmap") else None)
    on_its_side, best = rgb.transpose(Image.Transpose.ROTATE_90), {"quality": 100, "subsampling": 0}
    for name, options in {"f.png": {}, "g.webp": {"lossless": True}, "h.jpg": best}.items():
        on_its_side.save(tmp_path / name, exif=exif, **options)
    files = [str(file) for file in sorted(tmp_path.iterdir())]
    tiny_mixer(num_blocks=1).save(tmp_path / "model.keras")
    assert cli.main(["predict", f"{tmp_path}/model.keras", *files, "--json"]) == 0
    answers = {Path(one["image"]).name: one["probabilities"] for one in json.loads(capsys.readouterr().out)}
    assert len(answers) == 13
    np.testing.assert_allclose(answers.pop("h.jpg"), answers["original.png"], atol=2e-3)
    assert {str(answer) for answer in answers.values()} == {str(answers["original.png"])}


def test_what_is_an_image_is_decided_by_opening_it(tmp_path):
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


def test_hidden_files_and_links(tmp_path):
    folder = write_folder(tmp_path / "photos", parts=())
    for hidden in ("circle/.ipynb_checkpoints", "circle/@eaDir", "stripe/.Trash-1000", ".git"):
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
    assert "hidden or system files and folders: 9 (circle/" in left_out
    assert "links to folders already read: 2 (circle/cycle, circle/more again)" in left_out
    assert "broken links, pipes, sockets or devices: 3 (circle/to itself, stripe/" in left_out
    os.rename(os.fsencode(folder / "stripe"), os.fsencode(folder) + b"/M\xfcnchen")
    refused(folder, "class folder .* is not UTF-8")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("Training", "Testing"), r"has Testing, Training\. .* --train-split Training --test-split Testing\."),
        (("2023", "2024"), r"has 2023, 2024\. .* --train-split FOLDER --test-split FOLDER\."),
        (("train", "val"), r"has train, val\. .* --train-split train --test-split val\."),
        (("train", "Test", "validation"), r"--train-split train --test-split Test or validation"),
    ],
)
def test_two_levels_of_folders_are_asked_about(parts, message, tmp_path):
    folder = write_folder(tmp_path / "photos", images_per_class=2, parts=parts)
    refused(folder, message)
    train, test, *others = parts
    *left_out, classes = listed(folder, train_split=train, test_split=test)
    assert classes == "Images per class (training + test): circle 2 + 2, stripe 2 + 2"
    assert left_out == [f"Left out of {folder}: folders: 1 (validation)."] * len(others)


def test_a_class_may_be_called_train_and_have_folders_inside(tmp_path):
    folder = write_folder(tmp_path / "photos", classes=("bus", "train"), parts=())
    (folder / "bus" / "red").mkdir()
    shutil.copy(folder / "bus" / "0.png", folder / "bus" / "red" / "0.png")
    assert listed(folder, test_fraction=0.5) == ["Images per class (training + test): bus 3 + 4, train 3 + 3"]


def test_useless_paths_and_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./fotos", "fotos/", "~/fotos", str(tmp_path / "fotos")):
        refused(name, f"There is no folder {name}")
    refused("fotos", "neither 'digits', nor an existing folder")
    (tmp_path / "photos.zip").write_bytes(b"PK")
    refused("photos.zip", r"got the file photos\.zip\. Unpack")
    folder = tmp_path / "photos"
    (folder / "one").mkdir(parents=True)
    refused(folder, r"two or more class folders with images; it contains one\.")
    (folder / "two").mkdir()
    (folder / "one" / "a.heic").write_bytes(b"heic")
    refused(folder, "one contains no images")
    write_folder(tmp_path / "parts")
    (tmp_path / "parts" / "test" / "zebra").mkdir()
    refused("parts", "Class folder zebra contains no images to train on, in parts")


def test_a_folder_becomes_a_source_and_what_spoils_a_result_is_said(tmp_path):
    folder, said = write_folder(tmp_path / "photos", images_per_class=4), []
    source = load_source(str(folder), log=said.append)
    assert not said
    assert (source.train.size, source.test.size) == (8, 8)
    for element in source.train.elements:
        example = source.train.read(element)
        assert np.mean(decode_image(example["image"]), (0, 1)).argmax() == int(example["label"])
    with pytest.raises(ValueError, match=r"set model\.class_names = \(\.\.\.\) and save it again"):
        with_classes_of(source, ("0", "1"))
    for old, new in ((0, "new"), (1, "other")):
        file = sorted((folder / "train" / "circle").iterdir())[old]
        shutil.copy(file, folder / "test" / "circle" / f"{new}{file.suffix}")
    for file in (folder / "train" / "stripe").iterdir():
        Image.fromarray(np.full((16, 16), 4095, np.uint16)).save(file.with_suffix(".png"))
    load_source(str(folder), log=said.append)
    assert said[0].startswith("Training images that are test images too: 2 (test/circle/new")
    assert "png has 16 bits per pixel and uses 12: it is almost black. Scale it by 16." in said[1]
