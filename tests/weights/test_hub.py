"""`hf://` addresses, against a server on this machine that speaks the Hub's download paths."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import randomize
from safetensors.numpy import save_file
from weight_files import linen, send, serving, timm

import keras_mixer
from keras_mixer.export.predictor import load_model
from keras_mixer.export.runtimes import load
from keras_mixer.weights.convert import convert

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def build(**options):
    return keras_mixer.Mixer(8, 1, 8, 4, 8, **{"input_shape": (16, 16, 3), "classes": 3} | options)


@pytest.fixture(scope="module")
def models():
    generator = np.random.default_rng(0)
    return randomize(build(), generator), randomize(build(), generator)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory, models):
    folder, arrays = tmp_path_factory.mktemp("hub"), {weight.path: weight.numpy() for weight in models[0].weights}
    for repository, name, write, revision in [
        ("me/keras", "model.keras", models[0].save, "main"),
        ("me/keras", "model.keras", models[1].save, "v1"),
        ("timm/tiny", "model.safetensors", lambda path: save_file(timm(arrays), path), "main"),
        ("timm/tiny", "pytorch_model.bin", lambda path: path.write_bytes(b"a pickle"), "main"),
        ("me/two", "files/one.npz", lambda path: np.savez(path, **linen(arrays)), "main"),
        ("me/two", "two.npz", lambda path: path.write_bytes(b"nothing"), "main"),
    ]:
        path = folder / repository / COMMITS[revision] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return folder


@pytest.fixture
def asked(repositories, tmp_path, monkeypatch):
    """The paths that were asked for, of a server of the repositories."""
    asked = []

    def respond(handler):
        asked.append(handler.path.split("?")[0])
        parts = asked[-1].removeprefix("/api/models").strip("/").split("/")  # owner, name, a verb, revision, file
        commit = COMMITS.get(*(parts[3:4] or ["main"]) * 2)
        place = repositories / parts[0] / parts[1] / commit / Path(*parts[4:])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(str(place).encode()).hexdigest()}"'}
        if not place.exists():
            kind = "Entry" if parts[2:3] == ["resolve"] else "Repo"
            send(handler, b"", status=404, headers={"X-Error-Code": f"{kind}NotFound"})
        elif place.is_dir():
            names = [str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()]
            tree = [{"type": "file", "path": name, "size": 0, "oid": ""} for name in names]
            answer = tree if parts[2:3] == ["tree"] else {"id": "/".join(parts[:2]), "sha": commit}
            send(handler, json.dumps(answer).encode(), headers=headers)
        else:
            send(handler, place.read_bytes(), headers=headers)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(respond) as url:
        redirect_hub(monkeypatch, url)
        yield asked


def redirect_hub(monkeypatch, url):
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def same(model, other):
    return all(map(np.array_equal, model.get_weights(), other.get_weights()))


def test_weights_are_read_from_every_kind_of_file_and_revision(asked, models):
    for address in ("hf://me/keras", "hf://me/keras/model.keras", "hf://me/two/files/one.npz", "hf://timm/tiny"):
        assert same(build(weights=address), models[0]), address
    assert build(weights="hf://timm/tiny").get_layer("mixer_block_0").exact_gelu
    assert not any(path.endswith(".bin") for path in asked)
    assert same(keras_mixer.load_weights(build(), "hf://me/keras@v1/model.keras"), models[1])
    assert same(build(weights=f"hf://me/keras@{COMMITS['v1']}"), models[1])


def test_models_are_opened_and_converted(asked, models, tmp_path, rng):
    images = rng.integers(0, 256, (2, 16, 16, 3))
    predictor = load(Path("hf://me/keras"))  # as the command line passes it on
    expected = models[0].predict_on_batch(images.astype("float32"))
    np.testing.assert_allclose(predictor.probabilities(images), expected, atol=1e-6)
    assert same(load_model(convert("hf://me/two/files/one.npz", tmp_path / "one.keras")), models[0])


def test_the_cache_is_used_without_the_hub(asked, monkeypatch):
    addresses = ("hf://me/keras@v1/model.keras", "hf://me/keras")
    first = [build(weights=address) for address in addresses]
    redirect_hub(monkeypatch, "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    assert all(same(build(weights=address), model) for address, model in zip(addresses, first, strict=True))
    with pytest.raises(OSError, match=r"^Downloading hf://me/two/two\.npz failed: "):
        build(weights="hf://me/two/two.npz")


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("hf://me", ValueError, r"Expected hf://owner/name.* got hf://me\."),
        ("hf://timm/tiny/pytorch_model.bin", ValueError, r"\.bin' is not a known source: .* a file that ends in"),
        ("hf://me/two", ValueError, r"one weights file in hf://me/two, got files/one\.npz, two\.npz"),
        ("hf://me/two/three.npz", OSError, r"^Downloading hf://me/two/three\.npz failed: .*Entry Not Found"),
        ("hf://me/two/two.npz", ValueError, r"two\.npz is not a readable \.npz"),
        ("hf://me/nothing", OSError, r"^Downloading hf://me/nothing failed: .*Repository Not Found"),
        (Path("https://a.org/b/model.keras"), ValueError, r"Expected hf://owner.* got https://a\.org.*download"),
    ],
)
def test_what_cannot_be_downloaded_is_named_in_one_line(asked, address, error, message):
    with pytest.raises(error, match=message) as raised:
        keras_mixer.load_weights(build(), address)
    assert "\n" not in str(raised.value)
