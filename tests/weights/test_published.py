"""Downloads, from a server on this machine that can misbehave."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import save
from weight_files import linen, send, serving, timm

import keras_mixer
from keras_mixer.export.predictor import Predictor
from keras_mixer.variants import VARIANTS
from keras_mixer.weights import published

TINY = published.Published("some", "S/32", 10, "nothing")


def build():
    return keras_mixer.Mixer(4, 1, 16, 8, 32, input_shape=(16, 16, 3), classes=10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = build()
    path = tmp_path_factory.mktemp("files") / "a.npz"
    np.savez(path, **linen({weight.path: weight.numpy() for weight in model.weights}, 1))
    return path.read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "keras_mixer"


def test_a_download_lands_in_the_cache_and_is_not_repeated(cache, checkpoint, monkeypatch, capfd):
    asked = []
    with serving(lambda handler: (asked.append(handler.path), send(handler, checkpoint))) as url:
        monkeypatch.setattr(published, "BUCKET", url)
        path = published.download(TINY)
        assert published.download(TINY) == path
    assert asked == ["/some/Mixer-S_32.npz"]
    assert path.read_bytes() == checkpoint
    assert [item.name for item in cache.iterdir()] == ["some-Mixer-S_32.npz"]
    assert not capfd.readouterr().out  # the progress bar is for standard error


def test_a_file_put_into_the_cache_by_hand_is_used_and_refused_if_it_is_damaged(cache, checkpoint, monkeypatch):
    monkeypatch.setattr(published, "BUCKET", "http://127.0.0.1:9")  # nobody answers there
    cache.mkdir(parents=True)
    (cache / "some-Mixer-S_32.npz").write_bytes(checkpoint)
    assert published.download(TINY).read_bytes() == checkpoint
    damaged = bytearray(checkpoint)
    damaged[len(damaged) // 2] ^= 0xFF
    (cache / "some-Mixer-S_32.npz").write_bytes(damaged)
    monkeypatch.setattr(published, "find", lambda name, variant: TINY)
    monkeypatch.setattr(published, "imagenet_classes", lambda classes: [])
    with pytest.raises(ValueError, match=r"some-Mixer-S_32\.npz is not a readable \.npz"):
        keras_mixer.load_weights(build(), "imagenet1k")


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda to, content: send(to, content[:500], len(content)), OSError, r"failed(?s:.)*by hand: .*S_32\.npz"),
        (lambda to, content: send(to, b"not here", status=404), OSError, "404"),
        (lambda to, content: send(to, b"<html>please log in</html>"), ValueError, "is not the expected file"),
        (lambda to, content: send(to, content[: len(content) // 2]), ValueError, "is not the expected file"),
    ],
    ids=["cut connection", "404", "wrong content", "half a file"],
)
def test_a_failed_download_leaves_nothing_and_the_next_succeeds(cache, checkpoint, monkeypatch, answer, error, message):
    with serving(lambda handler: answer(handler, checkpoint)) as url:
        monkeypatch.setattr(published, "BUCKET", url)
        with pytest.raises(error, match=message):
            published.download(TINY)
    assert not list(cache.iterdir())
    with serving(lambda handler: send(handler, checkpoint)) as url:
        monkeypatch.setattr(published, "BUCKET", url)
        assert published.download(TINY).read_bytes() == checkpoint


def test_a_killed_download_leaves_no_file_that_counts(cache, checkpoint, monkeypatch):
    started = threading.Event()

    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(checkpoint)))
        handler.end_headers()
        handler.wfile.write(checkpoint[: len(checkpoint) // 2])
        handler.wfile.flush()
        started.set()
        time.sleep(30)

    code = (
        "from keras_mixer.weights import published; import sys; published.BUCKET = sys.argv[1]; "
        "published.download(published.Published('some', 'S/32', 10, ''))"
    )
    with serving(stall) as url:
        process = subprocess.Popen(
            [sys.executable, "-c", code, url],
            env=os.environ | {"KERAS_HOME": str(cache.parent)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert started.wait(300)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (cache / "some-Mixer-S_32.npz").exists()
    with serving(lambda handler: send(handler, checkpoint)) as url:
        monkeypatch.setattr(published, "BUCKET", url)
        assert published.download(TINY).read_bytes() == checkpoint


def test_timms_copy_replaces_a_bucket_that_fails(cache, checkpoint, monkeypatch, rng, caplog):
    model = build()
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.weights])
    copy = save(timm({weight.path: weight.numpy() for weight in model.weights}, 1))
    asked = []

    def answer(handler):
        asked.append(handler.path)
        hub = handler.path == "/timm/tiny/resolve/main/model.safetensors"
        send(handler, copy if hub and len(asked) > 2 else b"", status=200 if hub and len(asked) > 2 else 503)

    tiny = dataclasses.replace(TINY, repository="tiny")
    with serving(answer) as url:
        monkeypatch.setattr(published, "BUCKET", url)
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(OSError, match=r"Mixer-S_32.npz failed(?s:.)*\ntimm's copy failed too(?s:.)*safetensors"):
            published.download(tiny)
        assert not list(cache.iterdir())
        path = published.download(tiny)
        assert published.download(tiny) == path  # from the cache, without asking the bucket again
    assert asked == ["/some/Mixer-S_32.npz", "/timm/tiny/resolve/main/model.safetensors"] * 2
    assert "Trying timm's copy" in caplog.text
    again = build()
    monkeypatch.setattr(published.Published, "grid", (4, 4))
    monkeypatch.setattr(published, "imagenet_classes", lambda classes: [("", name) for name in "0123456789"])
    monkeypatch.setattr(published, "find", lambda name, variant: tiny)
    keras_mixer.load_weights(again, "imagenet1k")
    assert not again.get_layer("mixer_block_0").exact_gelu  # Google's model, whatever the file
    for weight, same in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)


def test_a_variant_without_public_weights_says_which_have_them():
    with pytest.raises(ValueError, match=r"no public weights 'imagenet21k' for Mixer S/32.*'imagenet21k' for B/16"):
        keras_mixer.MixerS32(weights="imagenet21k")


def urls(checkpoint):
    return list(checkpoint.urls.values())


def test_a_published_name_means_the_file_of_the_model_also_when_widened():
    wide = VARIANTS["B/16"].__class__(16, 12, 768, 4 * 384, 3072)
    for variant in (VARIANTS["B/16"], wide):
        assert urls(published.find("imagenet21k", variant))[0].endswith("mixer_models/imagenet21k/Mixer-B_16.npz")
    assert published.find("sam", VARIANTS["B/32"]).grid == (7, 7)
    assert urls(published.find("gsam", VARIANTS["S/8"]))[0].endswith("mixer_models/gsam/Mixer-S_8.npz")


def test_the_table_says_where_everything_comes_from():
    assert len(published.PUBLISHED) == 13
    for one in published.PUBLISHED:
        timm = "https://huggingface.co/timm/mixer_b16_224.miil_in21k"
        places = (f"{published.BUCKET}/",) if one.google else (f"{timm}/", f"{timm}_ft_in1k/")
        assert urls(one)[0].startswith(places)
        assert one.facts.pixel_range == ((0, 1) if one.facts.exact_gelu else (-1, 1))
        assert one.variant in VARIANTS
        assert one.data
        assert len(one.facts.class_names) == one.classes
        google = one.name in ("imagenet1k", "imagenet21k")
        assert (len(urls(one)) == 2) == google
        if google:
            in1k = "_ft_in1k" if one.classes == 1000 else ""
            size = one.variant.lower().replace("/", "")
            copy = f"https://huggingface.co/timm/mixer_{size}_224.goog_in21k{in1k}/resolve/main/model.safetensors"
            assert urls(one)[1] == copy


def test_miil_brings_its_pixels_and_its_gelu(cache, monkeypatch, rng, caplog):
    sizes = {"patch_size": 8, "num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}
    weights = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3))
    weights.set_weights([rng.normal(0, 0.5, weight.shape) for weight in weights.weights])
    content = save(timm({weight.path: weight.numpy() for weight in weights.weights}, 1))
    (miil,) = [checkpoint for checkpoint in published.PUBLISHED if checkpoint.name == "miil"]
    monkeypatch.setattr(published.Published, "grid", (2, 2))
    monkeypatch.setattr(published, "find", lambda name, variant: dataclasses.replace(miil))
    asked = []
    with serving(lambda handler: (asked.append(handler.path), send(handler, content))) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        model = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), weights="miil")
    assert asked == ["/timm/mixer_b16_224.miil_in21k_ft_in1k/resolve/main/model.safetensors"]
    assert "pixel_range" not in caplog.text
    images = rng.integers(0, 256, (2, 16, 16, 3)).astype("float32")
    bare = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), weights="miil", include_preprocessing=False)
    np.testing.assert_allclose(model.predict_on_batch(images), bare.predict_on_batch(images / 255), atol=1e-6)
    np.testing.assert_allclose(model.predict_on_batch(images), Predictor.of(bare).probabilities(images), atol=1e-6)
    file = cache / "timm-mixer_b16_224.miil_in21k_ft_in1k-model.safetensors"
    by_hand = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), weights=file, pixel_range=(0, 1))
    np.testing.assert_allclose(model.predict_on_batch(images), by_hand.predict_on_batch(images), atol=1e-6)
    assert model.get_layer("mixer_block_0").exact_gelu
    assert model.class_names[0] == "tench"
