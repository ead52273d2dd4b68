"""Runs in an object store: what is in the bucket at any moment is enough to go on, and one process writes at a time."""

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import gcs_server
import numpy as np
import pytest
from image_files import write_folder

import keras_mixer
from keras_mixer.buckets import BucketFolder, address_of
from keras_mixer.cli.terminal import Run, parse
from keras_mixer.data.splits import Source
from keras_mixer.training import lease as leases
from keras_mixer.training.bucket_run import BucketRunDirectory
from keras_mixer.training.callbacks import Checkpoints, RunStopped
from keras_mixer.training.checkpoints import list_checkpoints
from keras_mixer.training.lease import Lease, leased
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run_lock import RunInUse

RECIPE = Recipe("any", "any")
SMALL = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32, "xla_on_cpu": False}
QUICK = SMALL | {"epochs": 3, "global_batch_size": 8, "warmup_steps": 2, "checkpoint_every_steps": 2}


class Killed(Exception):
    """The machine is gone: nothing of it reaches the bucket any more."""


@pytest.fixture
def address():
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket/run"


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path_factory):
    """A place of its own for the copies, which killed runs leave behind; and quick beats."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.04)
    return folder


def die_after(changes, patch):
    """After a number of changes to buckets, all further ones fail until the patches are undone."""
    count = itertools.count()

    def mortal(original):
        def change(self, *arguments):
            if next(count) >= changes:
                raise Killed
            return original(self, *arguments)

        return change

    for name in ("write", "create", "upload", "delete"):
        patch.setattr(BucketFolder, name, mortal(getattr(BucketFolder, name)))


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


def test_a_run_in_a_bucket_is_the_run_in_a_folder(address, photos, tmp_path, temporary, monkeypatch):
    expected = fit(tmp_path / "folder", photos).model.get_weights()

    def stop(self, batch, logs=None, original=Checkpoints.on_train_batch_end):
        original(self, batch, logs)
        self.stop_requested = self.step == 5

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", stop)
        with pytest.raises(RunStopped):
            fit(address, photos)
    names = BucketFolder(address).sizes()
    assert {"checkpoints/checkpoint-000000005.npz", "metrics.csv", "config.json"} <= names.keys()
    assert "results.json" not in names
    said = []
    result = fit(address, photos, said)
    assert "Resuming after step 5 of 9." in said
    for got, want in zip(result.model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    names = BucketFolder(address).sizes()
    folder = {str(file.relative_to(tmp_path / "folder")) for file in (tmp_path / "folder").rglob("*") if file.is_file()}
    without_events = {name for name in names if "tensorboard" not in name and "run.lock" not in name}
    assert without_events == {name for name in folder if "tensorboard" not in name}
    assert any(name.startswith("tensorboard/train/") for name in names)
    assert result.history["epoch"] == [0, 1, 2]
    again = fit(address, photos, said)  # finished: loaded, not trained again
    assert said[-1].startswith(f"Run {address} is already finished")
    assert again.metrics == result.metrics
    assert not list(temporary.glob("keras-mixer-*"))
    with pytest.raises(ValueError, match=rf"The run directory {address} belongs to another configuration \(seed"):
        fit(address, photos, seed=1)


def train_a_little(run):
    """What training does to the folder of a run, with small files: two checkpoints are kept, a third is removed."""
    run.begin(Source("any", ("a", "b"), None, None))
    for step in (1, 2, 3):
        if step not in list_checkpoints(run.checkpoints):
            np.savez(run.checkpoints / f"checkpoint-{step:09d}.npz", step=step)
        for old in list(list_checkpoints(run.checkpoints).values())[:-2]:
            old.unlink()
        run.append_metrics({"epoch": step, "step": step})
        run.upload()
    run.model.write_bytes(b"model")
    run.write_results({"accuracy": 1.0})


def test_a_run_killed_at_any_moment_goes_on(address, monkeypatch):
    """After any number of changes to the bucket, what is in it is consistent, and the next process ends the run."""
    for changes in itertools.count():
        fsspec.filesystem("memory").store.clear()
        with monkeypatch.context() as patch:
            die_after(changes, patch)
            try:
                run = BucketRunDirectory(address, RECIPE)
                with run.prepared(0, [].append):
                    train_a_little(run)
                    run.close()
                killed = False
            except (Killed, OSError):
                killed = True
        monkeypatch.setattr(leases, "BEAT_SECONDS", 0.001)
        names = BucketFolder(address).sizes()
        steps = [int(name[-7:-4]) for name in names if name.startswith("checkpoints/")]
        if "metrics.csv" in names:
            assert steps, "a row of metrics without its checkpoint"
        run = BucketRunDirectory(address, RECIPE)
        assert run.finished == ({"model.keras", "results.json"} <= names.keys())
        if not run.finished:
            with run.prepared(0, [].append):
                assert sorted(list_checkpoints(run.checkpoints)) == sorted(steps)
                train_a_little(run)
        run.close()
        names = BucketFolder(address).sizes()
        assert {name for name in names if name.startswith("checkpoints/")} == {
            f"checkpoints/checkpoint-{step:09d}.npz" for step in (2, 3)
        }
        assert json.loads(BucketFolder(address).read("results.json")) == {"accuracy": 1.0}
        if not killed:
            break
    assert changes > 10


def write_without_a_connection(run, said, patch):
    with run.prepared(0, said.append):
        die_after(0, patch)
        run.append_metrics({"epoch": 0, "step": 1})
        run.publish()


def test_what_could_not_be_uploaded_is_kept(address, monkeypatch):
    run, said = BucketRunDirectory(address, RECIPE), []
    monkeypatch.setattr(Lease, "release", lambda lease: lease.stopped.set())
    with pytest.raises(OSError, match=rf"^Uploading to {address} failed .* The files are in {run.copy}"):
        write_without_a_connection(run, said, monkeypatch)
    assert said[-1].startswith(f"Uploading to {address} failed")
    run.close()
    assert run.metrics.is_file()


def test_copies_of_killed_processes_are_removed_unless_they_hold_what_is_nowhere_else(address, temporary):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name, process in (("killed", ended.pid), ("kept", ended.pid), ("alive", os.getpid())):
        (temporary / f"keras-mixer-run-{socket.gethostname()}-{process}-{name}").mkdir()
    (temporary / f"keras-mixer-run-{socket.gethostname()}-{ended.pid}-kept" / ".writing-kept").touch()
    BucketRunDirectory(address, RECIPE).close()
    assert sorted(path.name.rpartition("-")[2] for path in temporary.glob("keras-mixer-run-*")) == ["alive", "kept"]


def test_a_folder_with_something_else_in_it_is_refused(address):
    BucketFolder(address).write("thesis.txt", b"do not lose me")
    with pytest.raises(ValueError, match=r"contains other files \(thesis.txt\)"):
        BucketRunDirectory(address, RECIPE)


def test_one_process_at_a_time(address):
    folder = BucketFolder(address)
    with leased(folder), pytest.raises(RunInUse, match="in use by process"):
        Lease(folder)
    said = []
    Lease(folder, said.append).release()  # released: no waiting
    assert not said
    assert [name for name in folder.sizes() if name.startswith("run.lock")] == ["run.lock-000002"]


def test_a_dead_owner_is_replaced_and_notices_if_it_was_only_asleep(address):
    folder, said = BucketFolder(address), []
    sleeping = Lease(folder)
    sleeping.stopped.set()  # no more beats
    sleeping.thread.join()
    with leased(folder, said.append):
        assert "which has ended; taking over its lock" in said[-1]
        with pytest.raises(RunInUse, match="was taken over by process"):
            sleeping.check()
        sleeping.release()
    with pytest.raises(RunInUse, match="was taken over"):
        sleeping.check()  # also after its successor has finished


def test_of_processes_that_start_at_the_same_moment_one_wins(address, monkeypatch):
    folder, barrier, owners = BucketFolder(address), threading.Barrier(4), []
    create = BucketFolder.create
    monkeypatch.setattr(BucketFolder, "create", lambda *arguments: (barrier.wait(), create(*arguments))[1])

    def start():
        try:
            owners.append(Lease(folder))
        except RunInUse:
            owners.append(None)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (owner for owner in owners if owner)
    winner.release()


def look_at(run: Run, output: Path | None = None):
    """Looks at a run.

    Args:
        run: folder of a run.
        output: where to write.
    """
    files = sorted(file.name for file in run.rglob("*") if file.is_file())
    (run / "evaluation.json").write_text(" ".join(files))


def test_commands_read_a_run_in_a_bucket_and_write_to_it(address, capsys):
    folder = BucketFolder(address)
    for name in ("config.json", "model.keras", "checkpoints/checkpoint-000000001.npz", "run.lock-000001"):
        folder.write(name, b"{}")
    parse(look_at, "look", [address])
    assert folder.read("evaluation.json") == b"config.json model.keras"
    assert capsys.readouterr().out == f"Written to {address}: evaluation.json\n"


def test_there_must_be_a_run_in_the_bucket(address):
    with pytest.raises(ValueError, match=rf"There is no run at {address}"):
        parse(look_at, "look", [address])


def test_google_cloud_storage(monkeypatch, tmp_path):
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else it asks for the kind of bucket, by gRPC
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    with gcs_server.running() as (server, url):
        monkeypatch.setitem(fsspec.config.conf, "gs", {"endpoint_url": url, "token": "anon"})
        folder = BucketFolder("gs://bucket/run")
        assert (folder.sizes(), folder.read("config.json")) == ({}, None)
        assert folder.create("run.lock-000001", b"first")
        assert not folder.create("run.lock-000001", b"second")
        with pytest.raises(RunInUse), leased(folder), leased(folder):
            pass
        content = bytes(range(256)) * 1000
        (tmp_path / "checkpoint.npz").write_bytes(content)
        folder.upload(tmp_path / "checkpoint.npz", "checkpoints/checkpoint.npz")
        assert folder.download("checkpoints/checkpoint.npz", tmp_path / "copy").read_bytes() == content
        assert folder.read("run.lock-000001") is None
        folder.delete("checkpoints/checkpoint.npz")
        folder.delete("checkpoints/checkpoint.npz")
        assert list(folder.sizes()) == ["run.lock-000002"]
        assert all(name.startswith("run/") for _, name in server.objects)
