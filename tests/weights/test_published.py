"""Published checkpoints, downloaded from a server on this machine that can misbehave."""

import dataclasses
import io

import numpy as np
import pytest
from conftest import randomize
from safetensors.numpy import save
from weight_files import linen, send, serving, timm

import keras_mixer
from keras_mixer.export.predictor import Predictor
from keras_mixer.variants import VARIANTS
from keras_mixer.weights import published
from keras_mixer.weights.imagenet_classes import imagenet_classes

TINY = published.Published("sam", "S/32", 1000, "nothing", repository="tiny")
FILES = ("/sam/Mixer-S_32.npz", "/timm/tiny/resolve/main/model.safetensors")


def build(**options):
    return keras_mixer.Mixer(8, 1, 16, 8, 32, **{"input_shape": (16, 16, 3)} | options)


@pytest.fixture(scope="module")
def trained():
    return randomize(build(), np.random.default_rng(0))


@pytest.fixture(scope="module")
def files(trained):
    weights, npz = {weight.path: weight.numpy() for weight in trained.weights}, io.BytesIO()
    np.savez(npz, **linen(weights))
    return {FILES[0]: npz.getvalue(), FILES[1]: save(timm(weights))}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(published.Published, "grid", (2, 2))
    return tmp_path / "keras_mixer"


@pytest.fixture
def serve(cache, monkeypatch):
    """A function: downloads a checkpoint from a server; returns the path, and what was asked."""

    def download(checkpoint, answer):
        asked = []
        with serving(lambda handler: (asked.append(handler.path), answer(handler))) as url:
            monkeypatch.setattr(published, "BUCKET", url)
            monkeypatch.setenv("HF_ENDPOINT", url)
            return published.download(checkpoint), asked

    return download


def test_a_download_is_kept_in_the_cache_and_its_model_knows_its_classes(serve, cache, trained, files, monkeypatch):
    path, asked = serve(TINY, lambda handler: send(handler, files[handler.path]))
    assert asked == ["/sam/Mixer-S_32.npz"]
    assert path.read_bytes() == files[FILES[0]]
    assert [item.name for item in cache.iterdir()] == ["sam-Mixer-S_32.npz"]
    monkeypatch.setattr(published, "BUCKET", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(published, "find", lambda name, variant: TINY)
    model = build(weights="sam")
    assert all(map(np.array_equal, model.get_weights(), trained.get_weights()))
    assert model.class_names == tuple(name for _, name in imagenet_classes(1000))
    assert keras_mixer.change_resolution(model, (32, 16, 3)).class_names == model.class_names
    assert build(weights="sam", classes=7).class_names is None  # a new head
    path.write_bytes(files[FILES[0]][:-100])
    with pytest.raises(ValueError, match=r"sam-Mixer-S_32\.npz is not a readable \.npz"):
        build(weights="sam")


def test_a_failed_download_leaves_nothing_and_the_next_succeeds(serve, cache, files):
    google, content = dataclasses.replace(TINY, repository=None), files[FILES[0]]
    with pytest.raises(OSError, match=r"failed(?s:.)*by hand: .*S_32\.npz"):
        serve(google, lambda handler: send(handler, content[:500], len(content)))  # the connection is cut
    with pytest.raises(OSError, match=r"failed: .*is not a readable"):
        serve(google, lambda handler: send(handler, content[: len(content) // 2]))
    assert not list(cache.iterdir())
    assert serve(google, lambda handler: send(handler, content))[0].read_bytes() == content


def test_timms_copy_replaces_a_bucket_that_fails(serve, cache, trained, files, monkeypatch, caplog):
    with pytest.raises(OSError, match=r"Mixer-S_32.npz failed(?s:.)*\ntimm's copy failed too(?s:.)*safetensors"):
        serve(TINY, lambda handler: send(handler, b"", status=503))
    assert not list(cache.iterdir())

    def only_copy(handler):
        send(handler, files[handler.path], status=503 if handler.path == FILES[0] else 200)

    path, asked = serve(TINY, only_copy)
    assert asked == list(FILES)
    assert serve(TINY, only_copy) == (path, [])  # from the cache
    assert "Trying timm's copy" in caplog.text
    monkeypatch.setattr(published, "find", lambda name, variant: TINY)
    again = keras_mixer.load_weights(build(), "sam")
    assert not again.get_layer("mixer_block_0").exact_gelu  # Google's model, whatever the file
    assert all(map(np.array_equal, again.get_weights(), trained.get_weights()))


def test_miil_brings_its_pixels_and_its_gelu(serve, files, monkeypatch, rng, caplog):
    (miil,) = [checkpoint for checkpoint in published.PUBLISHED if checkpoint.name == "miil"]
    path, asked = serve(miil, lambda handler: send(handler, files[FILES[1]]))
    assert asked == ["/timm/mixer_b16_224.miil_in21k_ft_in1k/resolve/main/model.safetensors"]
    monkeypatch.setattr(published, "find", lambda name, variant: miil)
    model = build(weights="miil")
    assert "pixel_range" not in caplog.text
    assert model.get_layer("mixer_block_0").exact_gelu
    assert model.class_names[0] == "tench"
    images = rng.integers(0, 256, (2, 16, 16, 3)).astype("float32")
    expected = model.predict_on_batch(images)
    bare, by_hand = build(weights="miil", include_preprocessing=False), build(weights=path, pixel_range=(0, 1))
    np.testing.assert_allclose(bare.predict_on_batch(images / 255), expected, atol=1e-6)
    np.testing.assert_allclose(Predictor.of(bare).probabilities(images), expected, atol=1e-6)
    np.testing.assert_allclose(by_hand.predict_on_batch(images), expected, atol=1e-6)


def test_the_table_says_where_everything_comes_from():
    urls = [list(one.urls.values()) for one in published.PUBLISHED]
    timm = "https://huggingface.co/timm/mixer_l16_224.goog_in21k_ft_in1k/resolve/main/model.safetensors"
    assert (len(urls), sum(map(len, urls))) == (13, 17)
    assert urls[1] == [f"{published.BUCKET}/imagenet1k/Mixer-L_16.npz", timm]
    assert all(one.grid and len(one.facts.class_names) == one.classes for one in published.PUBLISHED)
    wide = dataclasses.replace(VARIANTS["B/16"], tokens_mlp_dim=4 * 384)
    pair = dataclasses.replace(wide, patch_size=(16, 16))
    for variant in (VARIANTS["B/16"], wide, pair):
        assert "imagenet21k-Mixer-B_16.npz" in published.find("imagenet21k", variant).urls
    with pytest.raises(ValueError, match=r"'imagenet21k' is published for B/16, L/16, not for Variant\(patch_size=32"):
        keras_mixer.MixerS32(weights="imagenet21k")
