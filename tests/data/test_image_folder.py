"""Folders as people have them: what is an image, what is left out, and what is asked."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import photographs, write_folder
from PIL import Image

from keras_mixer.data.decode import image_of
from keras_mixer.data.sources import load_source
from keras_mixer.inspect.run_data import with_classes_of
from keras_mixer.training.inputs import describe_classes


def listed(folder, **options):
    """What is said about a folder, its classes last."""
    said = []
    source = load_source(str(folder), log=said.append, **options)
    return [line for line in said if "test images too" not in line] + [describe_classes(source)]


def refused(folder, message, **options):
    with pytest.raises(ValueError, match=message):
        load_source(str(folder), log=[].append, **options)


def test_what_is_an_image_is_decided_by_opening_it_and_the_rest_is_said(tmp_path):
    folder = write_folder(tmp_path / "photos", classes=("bus", "train"), parts=())  # a class may be called train
    picture = Image.fromarray(photographs()[0][:40, :40])
    for name, format in [("a.jfif", "JPEG"), ("b.MPO", "MPO"), ("c.TIF", "TIFF"), ("d", "PNG"), ("e.dat", "BMP")]:
        picture.save(folder / "bus" / name, format)
    for hidden in ("bus/.ipynb_checkpoints", "bus/@eaDir", "train/.Trash-1000", ".git"):
        shutil.copytree(folder / "bus", folder / hidden)
    shutil.copy(folder / "bus" / "0.png", folder / "bus" / "._0.png")
    (folder / "bus" / "Thumbs.db").write_bytes(b"")
    shutil.copytree(folder / "train", tmp_path / "elsewhere")
    for link, target in [
        ("bus/cycle", folder / "bus"),
        ("car", tmp_path / "elsewhere"),
        ("train/gone.jpg", tmp_path / "gone.jpg"),
        ("train/of a file.jpg", tmp_path / "elsewhere" / "1.jpg"),
    ]:
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "train" / "pipe.jpg")
    (folder / "bus" / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for text in (b"train/\xfc.txt", b"README"):
        Path(os.fsdecode(bytes(folder) + b"/" + text)).write_text("hello")
    shutil.copy(folder / "bus" / "0.png", os.fsencode(folder / "train") + b"/M\xfcnchen.png")
    left_out, classes = listed(folder, test_fraction=0.5)
    assert classes == "Images per class (training + test): bus 5 + 6, car 3 + 3, train 4 + 4"
    assert "files outside the class folders: 1 (README)" in left_out
    assert (
        "links to folders or to nothing, pipes and devices: 3 (bus/cycle, train/gone.jpg, train/pipe.jpg)" in left_out
    )
    assert "not an image that Pillow can read: 2 (bus/a.HEIC, train/\N{REPLACEMENT CHARACTER}.txt)" in left_out
    os.rename(os.fsencode(folder / "train"), os.fsencode(folder) + b"/M\xfcnchen")
    refused(folder, "class folder .* is not UTF-8")


def test_two_levels_of_folders_are_asked_about(tmp_path):
    for parts, told in {
        ("Training", "Testing"): r"with circle, stripe inside.* --train-split Training --test-split Testing, or",
        ("2023", "2024"): r"has 2023, 2024, .* --train-split 2023 --test-split 2024, or",
        ("train", "Test", "validation"): r"--train-split train --test-split Test or validation",
    }.items():
        folder = write_folder(tmp_path / parts[0], images_per_class=2, parts=parts)
        refused(folder, told)
        *left_out, classes = listed(folder, train_split=parts[0], test_split=parts[1])
        assert left_out == [f"Left out of {folder}: folders: 1 (validation)."] * (len(parts) > 2)
        assert classes == "Images per class (training + test): circle 2 + 2, stripe 2 + 2"
    flat = write_folder(tmp_path / "flat", images_per_class=4, parts=())
    assert f"There is no folder {flat}/val: test images are drawn from each class." in listed(flat, test_split="val")


def test_useless_paths_and_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./fotos", "fotos/", "~/fotos", str(tmp_path / "fotos")):
        refused(name, f"There is no folder {name}")
    refused("fotos", "neither 'digits', nor an existing folder")
    for part in ("train", "test"):
        (tmp_path / "flat" / part).mkdir(parents=True)
    refused("flat", "two or more class folders with images; found: none")
    (tmp_path / "photos.zip").write_bytes(b"PK")
    refused("photos.zip", r"no folder photos\.zip\. Archives must be unpacked")
    folder = tmp_path / "photos"
    (folder / "one").mkdir(parents=True)
    refused(folder, r"two or more class folders with images; found: one\.")
    (folder / "two").mkdir()
    (folder / "one" / "a.heic").write_bytes(b"heic")
    refused(folder, "has no training images of one, two")
    refused(write_folder(tmp_path / "same", classes=("dog", "dog "), parts=()), "class_names must differ")
    write_folder(tmp_path / "parts")
    shutil.copytree(tmp_path / "parts" / "test" / "circle", tmp_path / "parts" / "test" / "zebra")
    refused("parts", "has no training images of zebra")
    refused("parts", "has no training images of", test_split="./train")
    shutil.rmtree("parts/test")
    (tmp_path / "parts" / "test" / "circle").mkdir(parents=True)  # empty
    refused("parts", "two or more class folders with images; found: circle, stripe")


def test_a_folder_becomes_a_source_and_what_spoils_a_result_is_said(tmp_path):
    folder, said = write_folder(tmp_path / "photos", images_per_class=4), []
    source = load_source(str(folder), log=said.append)
    assert not said
    assert (source.train.size, source.test.size) == (8, 8)
    for element in source.train.elements:
        example = source.train.read(element)
        assert np.mean(image_of(example), (0, 1)).argmax() == int(example["label"])
    assert with_classes_of(source, ("stripe",)) is source  # one output
    for others in (("0", "1"), ("circle",)):
        with pytest.raises(ValueError, match=r"set model\.class_names = \(\.\.\.\) and save it again"):
            with_classes_of(source, others)
    for old, new in ((0, "new"), (1, "other")):
        file = sorted((folder / "train" / "circle").iterdir())[old]
        shutil.copy(file, folder / "test" / "circle" / f"{new}{file.suffix}")
    for file in (folder / "train" / "stripe").iterdir():
        Image.fromarray(np.full((16, 16), 4095, np.uint16)).save(file.with_suffix(".png"))
    load_source(str(folder), log=said.append)
    assert said[0].startswith("Training images that are test images too: 2 (test/circle/new")
    assert "png has 16 bits per pixel and uses 12: it is almost black. Scale it by 16." in said[1]
