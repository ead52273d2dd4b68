"""`hf://` addresses, against a server on this machine that speaks the Hub's download paths."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from weight_files import linen, send, serving, timm

import keras_mixer
from keras_mixer import cli
from keras_mixer.export.predictor import load_mixer
from keras_mixer.export.runtimes import load
from keras_mixer.weights.convert import convert

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
SIZES = {"patch_size": 8, "num_blocks": 1, "hidden_dim": 8, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}


def build(**options):
    return keras_mixer.Mixer(**SIZES, **{"input_shape": (16, 16, 3), "classes": 3} | options)


class Hub:
    """Repositories in a folder, `FOLDER/owner/name/REVISION/file`."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def add(self, repository, name, write, revision="main"):
        path = self.folder / repository / COMMITS[revision] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return path

    def answer(self, handler):
        path = handler.path.split("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            revision = parts[5] if parts[4:5] and parts[4] in ("revision", "tree") else "main"
            folder = self.folder / parts[2] / parts[3] / COMMITS.get(revision, revision)
            names = sorted(str(item.relative_to(folder)) for item in folder.rglob("*") if item.is_file())
            files = [{"rfilename": name, "size": (folder / name).stat().st_size} for name in names]
            content = {"id": "/".join(parts[2:4]), "sha": folder.name, "siblings": files}
            if parts[4:5] == ["tree"]:
                content = [{"type": "file", "path": one["rfilename"], "size": one["size"], "oid": ""} for one in files]
            missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self.send(handler, json.dumps(content).encode() if names else None, {} if names else missing)
        else:
            owner, name, resolve, revision, *file = parts
            assert resolve == "resolve"
            found = self.folder / owner / name / COMMITS.get(revision, revision) / Path(*file)
            content = found.read_bytes() if found.is_file() else None
            tag = hashlib.sha256(content or b"").hexdigest()
            headers = {"X-Repo-Commit": COMMITS.get(revision, revision), "ETag": f'"{tag}"'}
            if content is None:
                headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.send(handler, content, headers)

    @staticmethod
    def send(handler, content, headers):
        send(handler, content or b"", status=404 if content is None else 200, headers=headers)


@pytest.fixture(scope="module")
def models():
    generator = np.random.default_rng(0)
    first, second = build(), build()
    for model in (first, second):
        model.set_weights([generator.normal(size=weight.shape) for weight in model.weights])
    first.class_names = ("a", "b", "c")
    return first, second


@pytest.fixture
def server(tmp_path, monkeypatch, models):
    first, second = models
    server = Hub(tmp_path / "hub")
    arrays = {weight.path: weight.numpy() for weight in first.weights}
    server.add("me/keras", "model.keras", first.save)
    server.add("me/keras", "README.md", lambda path: path.write_text("A model."))
    server.add("me/keras", "model.keras", second.save, "v1")
    server.add("timm/tiny", "model.safetensors", lambda path: save_file(timm(arrays, 1), path))
    server.add("timm/tiny", "pytorch_model.bin", lambda path: path.write_bytes(b"a pickle"))
    server.add("me/two", "files/one.npz", lambda path: np.savez(path, **linen(arrays, 1)))
    server.add("me/two", "two.npz", lambda path: path.write_bytes(b"nothing"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(server.answer) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield server


def same(model, other):
    return all(map(np.array_equal, model.get_weights(), other.get_weights()))


def test_weights_are_read_from_every_kind_of_file(server, models):
    for address in ("hf://me/keras", "hf://me/keras/model.keras", "hf://me/two/files/one.npz", "hf://timm/tiny"):
        assert same(build(weights=address), models[0]), address
        exact_gelu = address == "hf://timm/tiny"
        assert same(keras_mixer.load_weights(build(exact_gelu=exact_gelu), address), models[0]), address
    assert build(weights="hf://timm/tiny").get_layer("mixer_block_0").exact_gelu
    assert not any(path.endswith((".bin", "README.md")) for path in server.asked)


def test_a_revision_is_pinned(server, models):
    assert same(build(weights="hf://me/keras@v1/model.keras"), models[1])
    assert same(build(weights=f"hf://me/keras@{COMMITS['v1']}"), models[1])
    assert same(load_mixer("hf://me/keras"), models[0])


def test_models_are_opened_and_converted(server, models, tmp_path, rng):
    images = rng.integers(0, 256, (2, 16, 16, 3))
    expected = models[0].predict_on_batch(images.astype("float32"))
    predictor = load(Path("hf://me/keras"))  # as the command line hands it on
    np.testing.assert_allclose(predictor.probabilities(images), expected, atol=1e-6)
    assert predictor.facts.class_names == ("a", "b", "c")
    assert same(load_mixer(convert("hf://me/two/files/one.npz", tmp_path / "one.keras")), models[0])


def test_a_model_that_keras_uploaded_is_opened(server, models):
    """Keras uploads the parts of a `.keras` file one by one."""
    with zipfile.ZipFile(server.folder / "me/keras" / COMMITS["main"] / "model.keras") as archive:
        for name in archive.namelist():
            archive.extract(name, server.folder / "me/parts" / COMMITS["main"])
    assert same(load_mixer("hf://me/parts"), models[0])
    assert same(build(weights="hf://me/parts"), models[0])


def test_the_cache_is_used_without_the_hub(server, models, monkeypatch):
    addresses = ("hf://me/keras/model.keras", "hf://me/keras@v1/model.keras", "hf://me/keras")
    first = [build(weights=address) for address in addresses]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    assert all(same(build(weights=address), model) for address, model in zip(addresses, first, strict=True))
    with pytest.raises(OSError, match=r"^Downloading hf://me/two/two\.npz failed: .*Run the command again to retry\.$"):
        build(weights="hf://me/two/two.npz")


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("hf://me", ValueError, r"Expected hf://owner/name, .* got hf://me\."),
        ("hf://me/keras/../x.npz", ValueError, "Expected hf://owner/name"),
        ("hf://timm/tiny/pytorch_model.bin", ValueError, r"Expected a file that ends in \.keras, .*\.bin"),
        ("hf://me/two", ValueError, r"one weights file in hf://me/two, got files/one\.npz, two\.npz"),
        ("hf://me/two/three.npz", OSError, r"^Downloading hf://me/two/three\.npz failed: .*Entry Not Found(?!.*retry)"),
        ("hf://me/two/two.npz", ValueError, r"two\.npz is not a readable \.npz"),
        ("hf://me/nothing", OSError, r"^Downloading hf://me/nothing failed: .*Repository Not Found(?!.*retry)"),
        ("https://a.org/b/model.keras", ValueError, "web addresses, got https://a.org.*Download the file"),
        (Path("http://a.org/b.npz"), ValueError, "not read from web addresses"),
        (
            "https://huggingface.co/me/two/resolve/main/files/one.npz?download=true",
            ValueError,
            r"Use hf://me/two@main/files/one\.npz\.",
        ),
    ],
)
def test_what_cannot_be_downloaded_is_named_in_one_line(server, address, error, message):
    with pytest.raises(error, match=message) as raised:
        keras_mixer.load_weights(build(), address)
    assert "\n" not in str(raised.value)


def test_a_command_without_a_place_for_its_output_says_so(capsys):
    assert cli.main(["export", "hf://me/keras", "--format", "tflite"]) == 2
    assert "Expected --output PATH for a model on the Hugging Face Hub" in capsys.readouterr().err
