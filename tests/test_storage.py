"""Runs in an object store: what is in the bucket at any moment is enough to go on."""

import itertools
import json
from pathlib import Path

import fsspec
import gcs_server
import pytest
from image_files import write_folder
from small_runs import SMALL, assert_same_weights

import keras_mixer
from keras_mixer import cli
from keras_mixer.cli import look
from keras_mixer.storage import Mirror, address_of

QUICK = SMALL | {"epochs": 3, "global_batch_size": 8, "warmup_steps": 2, "checkpoint_every_steps": 2}


class Killed(BaseException):
    """The machine is gone: nothing of it reaches the bucket any more."""


@pytest.fixture
def address():
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket/run"


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path_factory):
    """A place of its own for the copies, which killed runs leave behind."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def stored(address):
    """`{name: content}` of a folder in a bucket."""
    mirror = Mirror(address)
    return {name: mirror.system.cat_file(f"{mirror.root}/{name}") for name in mirror.names()}


def put(address, name, content):
    mirror = Mirror(address)
    mirror.system.pipe_file(f"{mirror.root}/{name}", content)


def die_after(changes, patch, error=Killed):
    """After a number of changes to buckets, all further ones fail until the patches are undone."""
    count = itertools.count()
    system = type(fsspec.filesystem("memory"))

    def mortal(original):
        def change(self, *arguments, **options):
            if next(count) >= changes:
                raise error("gone")
            return original(self, *arguments, **options)

        return change

    for name in ("pipe_file", "put_file", "rm_file"):
        patch.setattr(system, name, mortal(getattr(system, name)))


@pytest.fixture
def photos(tmp_path):
    return str(write_folder(tmp_path / "photos", images_per_class=12))  # 24 for training: 3 steps an epoch


def fit(workdir, data, said=None, **options):
    return keras_mixer.fit(
        "digits", workdir=workdir, data=data, log=([] if said is None else said).append, **(QUICK | options)
    )


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("gs://bucket/run", "gs://bucket/run"),
        ("gs:/bucket/run/", "gs://bucket/run"),
        ("file:/data/run", "file:///data/run"),
        ("runs/digits", None),
        ("C:/runs/digits", None),
        ("hf://owner/name", None),
    ],
)
def test_addresses_are_told_from_paths(path, address):
    assert address_of(path) == address


def test_an_unknown_file_system_is_named():
    with pytest.raises(ValueError, match=r"^nosuch://bucket/run cannot be opened: Protocol not known: nosuch"):
        keras_mixer.fit("smoke", workdir="nosuch://bucket/run")


def test_a_run_in_a_bucket_is_the_run_in_a_folder_killed_twice_or_not(
    address, photos, tmp_path, temporary, monkeypatch
):
    whole = fit(tmp_path / "whole", photos)
    for changes in (9, 14):  # within the first start and within the second
        with monkeypatch.context() as patch:
            die_after(changes, patch)
            with pytest.raises(Killed):
                fit(address, photos)
        assert "results.json" not in stored(address)
    said = []
    result = fit(address, photos, said)
    assert any(line.startswith("Resuming after step") for line in said)
    assert (result.metrics["accuracy"], result.history["epoch"]) == (whole.metrics["accuracy"], [0, 1, 2])
    assert_same_weights(whole.model, result.model)
    names = set(stored(address))
    assert {name for name in names if name.startswith("checkpoints/")} == {
        f"checkpoints/checkpoint-{step:09d}.npz" for step in (8, 9)
    }
    assert {"config.json", "files.csv", "start.json", "metrics.csv", "model.keras", "results.json"} <= names
    assert any(name.startswith("tensorboard/") for name in names)
    assert not any("run.lock" in name or ".writing" in name for name in names)
    assert fit(address, photos).metrics == result.metrics  # it is loaded
    killed = [path for path in temporary.glob("keras-mixer-*") if list(path.iterdir())]
    assert len(killed) == 0  # no copy is left


def test_what_is_in_the_bucket_is_consistent_after_every_change(address, tmp_path, monkeypatch):
    """Files of a run arrive in an order in which each prefix is a state to resume from; the results come last."""
    copy = tmp_path / "copy"
    for name in ("config.json", "checkpoints/checkpoint-000000002.npz", "metrics.csv", "model.keras", "results.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(name)
    for changes in range(6):
        fsspec.filesystem("memory").store.clear()
        with monkeypatch.context() as patch:
            die_after(changes, patch, OSError)
            mirror = Mirror(address, copy)
            if changes < 5:
                with pytest.raises(OSError, match="gone"):
                    mirror.send()
            else:
                mirror.send()
        names = stored(address).keys()
        assert len(names) == changes
        assert "metrics.csv" not in names or "checkpoints/checkpoint-000000002.npz" in names
        assert "results.json" not in names or changes == 5
    (copy / "metrics.csv").unlink()
    (copy / "config.json").write_text("changed")
    mirror.send()
    assert stored(address)["config.json"] == b"changed"
    assert "metrics.csv" not in stored(address)


def test_what_could_not_be_sent_is_told_and_kept(address, photos, monkeypatch):
    said = []
    die_after(6, monkeypatch, ConnectionError)
    with pytest.raises(
        OSError, match=rf"^Sending {address} failed \(gone\). The files are in (.*); run the same"
    ) as error:
        fit(address, photos, said)
    assert f"Sending {address} failed (gone); it is tried again later." in said
    kept = Path(str(error.value).partition("The files are in ")[2].partition(";")[0])
    assert json.loads((kept / "results.json").read_text())["accuracy"] >= 0


def test_a_folder_with_something_else_in_it_is_refused(address, photos):
    put(address, "thesis.txt", b"do not lose me")
    with pytest.raises(ValueError, match=r"contains other files \(thesis.txt\)"):
        fit(address, photos)
    assert stored(address) == {"thesis.txt": b"do not lose me"}


def test_commands_read_a_run_in_a_bucket_and_write_to_it(address, monkeypatch):
    for name in ("config.json", "model.keras", "checkpoints/checkpoint-000000001.npz"):
        put(address, name, b"{}")

    def list_files(card):
        files = sorted(file.name for file in card.run.rglob("*") if file.is_file())
        (card.run / "evaluation.json").write_text(" ".join(files))

    monkeypatch.setattr(look.Card, "__call__", list_files)
    cli.run("card", [address])
    assert stored(address)["evaluation.json"] == b"config.json model.keras"
    with pytest.raises(ValueError, match=r"There is no run at memory://bucket/none"):
        cli.run("card", ["memory://bucket/none"])


def test_what_is_printed_about_a_run_in_a_bucket_names_its_address(address, temporary, monkeypatch, capsys):
    put(address, "config.json", b"{}")
    monkeypatch.setattr("keras_mixer.inspect.model_card.write_model_card", lambda run, output: run / "README.md")
    assert cli.main(["card", address]) == 0
    assert f"Written: {address}/README.md." in capsys.readouterr().out
    monkeypatch.undo()
    assert cli.main(["card", address]) == 2
    assert capsys.readouterr().err.startswith(f"error: {address}/config.json does not contain")
    put(address, "one.keras", b"")
    assert cli.main(["fewshot", f"{address}/one.keras", "digits"]) == 2  # its folder is not on this machine
    assert "Expected --output PATH" in capsys.readouterr().err


def test_google_cloud_storage(monkeypatch, photos, tmp_path):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else it asks for the kind of bucket, by gRPC
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    with gcs_server.running() as (server, url):
        monkeypatch.setitem(fsspec.config.conf, "gs", {"endpoint_url": url, "token": "anon"})
        mirror = Mirror("gs://bucket/run", tmp_path / "copy")
        assert mirror.names() == []
        content = bytes(range(256)) * 1000
        (tmp_path / "copy" / "checkpoints").mkdir(parents=True)
        (tmp_path / "copy" / "checkpoints" / "checkpoint.npz").write_bytes(content)
        (tmp_path / "copy" / "config.json").write_bytes(b"{}")
        mirror.send()
        assert mirror.names() == ["checkpoints/checkpoint.npz", "config.json"]
        other = Mirror("gs://bucket/run", tmp_path / "other")
        other.fetch(other.names())
        assert (tmp_path / "other" / "checkpoints" / "checkpoint.npz").read_bytes() == content
        (tmp_path / "copy" / "checkpoints" / "checkpoint.npz").unlink()
        mirror.send()
        assert mirror.names() == ["config.json"]
        assert all(name.startswith("run/") for _, name in server.objects)
