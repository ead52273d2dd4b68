"""Runs in an object store: what is in the bucket at any moment is enough to resume."""

import itertools
from pathlib import Path

import fsspec
import gcs_server
import pytest
from image_files import write_folder
from small_runs import assert_same_weights, fit

import keras_mixer
from keras_mixer import cli
from keras_mixer.files import as_address
from keras_mixer.storage import Mirror
from keras_mixer.training.devices import Devices
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import Run

QUICK = {"epochs": 3, "global_batch_size": 8, "warmup_steps": 2, "checkpoint_every_steps": 2}


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
    return {name: mirror.objects.cat_file(name) for name in mirror.names()}


def put(address, name, content):
    Mirror(address).objects.pipe_file(name, content)


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


def test_addresses_are_told_from_paths_and_an_unknown_file_system_is_named():
    of = {"gs:/b/run/": "gs://b/run", "gs://b/run": "gs://b/run", "C:/run": None, "a": None}
    assert {path: as_address(path) for path in of} == of
    for address, words in {"nosuch://bucket/run": "Protocol not known: nosuch", "file:///run": "not a path"}.items():
        with pytest.raises(ValueError, match=words):
            keras_mixer.fit("smoke", workdir=address)


def test_a_run_in_a_bucket_is_the_run_in_a_folder_killed_twice_or_not(address, temporary, tmp_path, monkeypatch):
    options = QUICK | {"data": str(write_folder(tmp_path / "photos", images_per_class=12))}  # 3 steps an epoch
    whole = fit(tmp_path / "whole", **options)
    for changes in (9, 14):  # within the first start and within the second
        with monkeypatch.context() as patch:
            die_after(changes, patch)
            with pytest.raises(Killed):
                fit(address, **options)
        assert "results.json" not in stored(address)
    said = []
    result = fit(address, said=said, **options)
    assert any(line.startswith("Resuming after step") for line in said)
    assert (result.metrics["accuracy"], result.history["epoch"]) == (whole.metrics["accuracy"], [0, 1, 2])
    assert_same_weights(whole.model, result.model)
    names = set(stored(address))
    checkpoints = {f"checkpoints/checkpoint-{step:09d}.npz" for step in (8, 9)}
    assert {name for name in names if name.startswith("checkpoints/")} == checkpoints
    assert {"config.json", "files.csv", "start.json", "metrics.csv", "model.keras", "results.json"} <= names
    assert any(name.startswith("tensorboard/") for name in names)
    assert not any("run.lock" in name or ".writing" in name for name in names)
    assert fit(address, **options).metrics == result.metrics  # it is loaded
    assert keras_mixer.load(address).class_names == ("circle", "stripe")
    more = fit(tmp_path / "more", **options | {"weights": address, "epochs": 1})
    assert more.metrics["start_accuracy"] == result.metrics["accuracy"]
    assert not [path for path in temporary.glob("keras-mixer-*") if list(path.iterdir())]  # no copy is left


def test_what_is_in_the_bucket_is_consistent_after_every_change(address, monkeypatch):
    """Files of a run arrive in an order in which each prefix is a state to resume from; the results come last."""
    mirror = Mirror(address)
    for name in ("config.json", "checkpoints/checkpoint-000000002.npz", "metrics.csv", "model.keras", "results.json"):
        (mirror.copy / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror.copy / name).write_text(name)
    for changes in range(5):
        fsspec.filesystem("memory").store.clear()
        mirror.sent.clear()
        with monkeypatch.context() as patch:
            die_after(changes, patch, OSError)
            with pytest.raises(OSError, match="gone"):
                mirror.send()
        names = stored(address).keys()
        assert len(names) == changes
        assert "metrics.csv" not in names or "checkpoints/checkpoint-000000002.npz" in names
        assert "results.json" not in names
    (mirror.copy / "metrics.csv").unlink()
    (mirror.copy / "config.json").write_text("changed")
    mirror.send()
    assert stored(address)["config.json"] == b"changed"
    assert {"metrics.csv", "results.json"} & stored(address).keys() == {"results.json"}


def test_what_could_not_be_sent_is_told_and_kept_and_other_files_are_safe(address, monkeypatch):
    put(address, "thesis.txt", b"do not lose me")
    with pytest.raises(ValueError, match=r"contains other files \(thesis.txt\)"):
        fit(address)
    assert stored(address) == {"thesis.txt": b"do not lose me"}

    said, run = [], Run("memory://bucket/other", Recipe("any", "any"), Devices("one", 1))
    run.log = said.append
    die_after(0, monkeypatch, ConnectionError)
    sending = pytest.raises(OSError, match=r"^Sending .* failed \(gone\)\. The files are in .*; run the same")
    with sending as error, run.opened():
        run.config.write_text("{}")
        run.publish()
    assert said == ["Sending memory://bucket/other failed (gone); it is tried again later."]
    kept = Path(str(error.value).partition("The files are in ")[2].partition(";")[0])
    assert (kept / "config.json").read_text() == "{}"


def test_commands_read_a_run_in_a_bucket_write_to_it_and_name_its_address(address, monkeypatch, capsys):
    for name in ("config.json", "model.keras", "checkpoints/checkpoint-000000001.npz"):
        put(address, name, b"{}")

    def list_files(run, output):
        files = sorted(file.name for file in run.rglob("*") if file.is_file())
        (run / "evaluation.json").write_text(" ".join(files))
        return run / "README.md"

    with monkeypatch.context() as patch:
        patch.setattr("keras_mixer.cli.look.write_model_card", list_files)
        assert cli.main(["card", address]) == 0
    assert f"Written: {address}/README.md." in capsys.readouterr().out
    assert stored(address)["evaluation.json"] == b"config.json model.keras"
    for command, words in (
        (["card", address], f"error: {address}/config.json has no valid recipe"),
        (["card", "memory://bucket/none"], "There is no run at memory://bucket/none"),
        (["export", f"{address}/model.keras"], f"Expected --output PATH for {address}/model.keras"),  # not next to it
    ):
        assert cli.main(command) == 2
        assert words in capsys.readouterr().err


def test_google_cloud_storage(monkeypatch):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else it asks for the kind of bucket, by gRPC
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    with gcs_server.running() as (server, url):
        monkeypatch.setitem(fsspec.config.conf, "gs", {"endpoint_url": url, "token": "anon"})
        mirror, checkpoint = Mirror("gs://bucket/run"), "checkpoints/checkpoint.npz"
        assert mirror.names() == []
        (mirror.copy / "checkpoints").mkdir(parents=True)
        (mirror.copy / checkpoint).write_bytes(bytes(range(256)) * 1000)
        (mirror.copy / "config.json").write_bytes(b"{}")
        mirror.send()
        assert mirror.names() == [checkpoint, "config.json"]
        other = Mirror("gs://bucket/run")
        other.fetch(other.names())
        assert (other.copy / checkpoint).read_bytes() == (mirror.copy / checkpoint).read_bytes()
        (mirror.copy / checkpoint).unlink()
        mirror.send()
        assert list(server.objects) == ["run/config.json"]
