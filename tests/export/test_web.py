"""The page for browsers; the tests that open it need Chromium and LiteRT.js."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs
from pages import ROOT
from PIL import Image

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.splits import Split
from keras_mixer.export import web
from keras_mixer.export.web import LONGEST_SIDE, example_images, package_files

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CACHE = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer")
CACHED = all((CACHE / name).is_file() for name in ("litertjs-core-2.5.3.tgz", "litertjs-wasm-utils-2.5.3.tgz"))
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CACHED), reason="needs Chromium, and LiteRT.js in the cache of an earlier export"
)
DRIVER = """
const seen = [];
for (const kind of ["classified", "failed"])
  document.addEventListener(kind, (event) => seen.push(event.detail));
const until = async (condition) => { while (!condition()) await new Promise((done) => setTimeout(done, 20)); };
const text = (id) => document.getElementById(id).textContent;
await until(() => text("status").includes("ready") || text("error"));
for (const name of NAMES) {
  const files = new DataTransfer();
  files.items.add(new File([await (await fetch(name)).blob()], name));
  const before = seen.length;
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
  await until(() => seen.length > before);
}
const example = document.querySelector(".example");
const before = seen.length;
example.click();
await until(() => seen.length > before);
const card = ["name", "known", "facts", "device", "latency", "photo-caption"].map((id) => [id, text(id)]);
const shown = [...document.querySelectorAll("#bars li")].map((item) => item.innerText);
const gpu = Boolean(await navigator.gpu?.requestAdapter());
const result = { gpu, seen, shown, card: Object.fromEntries(card), loading: text("error") };
await fetch("result", { method: "POST", body: JSON.stringify(result) });
if ("FOLLOWING") location = "../FOLLOWING/";
"""


def test_the_page_has_all_that_it_needs_beside_it(classifier, registry, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "trained_on", "my photographs")
    examples = [("class 3", b"\x89PNG..."), ("class 5", b"\xff\xd8...")]
    facts = {"Test accuracy": "98.70 % on 1,234 test images"}
    about = {"title": "mine", "facts": facts, "examples": examples}
    page = keras_mixer.export(classifier, "web", tmp_path / "page", quantization="float16", **about).path
    names = {str(file.relative_to(page)) for file in page.rglob("*") if file.is_file()}
    needed = "index.html app.js pixels.js runtime.js style.css model.json model.tflite LICENSES.txt"
    assert names >= set(needed.split())
    licenses = (page / "LICENSES.txt").read_text()
    assert f"@litertjs/core {web.VERSION}" in licenses
    assert "APACHE-2.0.txt" in licenses  # the license of LiteRT.js requires its text
    assert (page / "APACHE-2.0.txt").read_text().strip().startswith("Apache License")
    assert (page / "litert" / "core.js").read_text() == 'import { load } from "./wasm-utils.js";'
    assert {path.name for path in (page / "litert" / "wasm").iterdir()} == {
        f"{name}{suffix}" for name in web.RUNTIMES for suffix in (".js", ".wasm")
    }
    html = (page / "index.html").read_text()
    for word in ("http:", "https:", "<script>"):  # nothing from elsewhere, nothing that default-src 'self' forbids
        assert word not in html
    description = json.loads((page / "model.json").read_text())
    assert description["class_names"] == list(classifier.class_names)
    assert description["evaluation_crop"] == "resmall-crop"
    about = json.loads((page / "card.json").read_text())
    assert about["name"] == "mine"
    assert about["model_bytes"] == (page / "model.tflite").stat().st_size
    facts = dict(about["facts"])
    assert facts["Trained on"] == "my photographs"
    assert facts["Test accuracy"] == "98.70 % on 1,234 test images"
    assert facts["Architecture"] == "Mixer: 2 blocks, 32 channels, patches of 4 x 4 px"
    assert [example["label"] for example in about["examples"]] == ["class 3", "class 5"]
    files = [page / example["file"] for example in about["examples"]]
    assert [file.read_bytes() for file in files] == [encoded for _, encoded in examples]
    assert [file.suffix for file in files] == [".png", ".jpg"]


def test_the_page_of_a_run_says_what_it_was_trained_on(tiny_mixer, registry, tmp_path, capsys):
    run = tmp_path / "my run"
    run.mkdir()
    model = tiny_mixer(num_blocks=1)
    model.class_names, model.evaluation_crop = tuple("0123456789"), "resize"
    model.trained_on = "scikit-learn digits"
    model.save(run / "model.keras")
    (run / "config.json").write_text(json.dumps({"name": "digits", "data": "digits"}))
    (run / "results.json").write_text(json.dumps({"accuracy": 0.5, "test_images": 360, "part": "held-out"}))
    assert cli.main(["export", str(run), "--format", "web", "--images", "4", "--examples", "2"]) == 0
    card = json.loads((run / "export" / "web" / "card.json").read_text())
    assert card["name"] == "my run"
    measured = ["Held-out accuracy", "50.00 % on 360 held-out images"]
    assert card["facts"][:2] == [["Trained on", "scikit-learn digits"], measured]
    assert [example["label"] for example in card["examples"]] == ["0", "9"]


def test_examples_are_of_different_classes_small_and_without_camera_data():
    photograph = photographs()[0]
    place = Image.Exif()
    place[0x010E] = "my garden"
    large, small = encode(photograph, "JPEG", exif=place), photograph[:200, :300]
    assert b"my garden" in large
    encoded = np.array([large, b"damaged", encode(small, "PNG"), large, encode(small, "BMP")], object)
    elements = tf.data.Dataset.from_tensor_slices({"image": tf.constant(list(encoded)), "label": [1, 0, 0, 1, 2]})
    split = Split(5, 3, elements, read=lambda element: element)
    (name, first), (_, second), (_, third) = example_images(split, "abc", 3)
    assert name == "a"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(first))), small)
    assert b"my garden" not in second
    assert max(Image.open(io.BytesIO(second)).size) == LONGEST_SIDE
    assert third.startswith(b"\x89PNG")
    assert [name for name, _ in example_images(split, "abc", 2)] == ["a", "c"]
    assert example_images(split, "abc", 0) == []


def test_what_the_page_cannot_do_is_refused(classifier, tiny_mixer, registry, pixels, tmp_path):
    with pytest.raises(ValueError, match="None, float16 or dynamic_int8, not int8"):
        keras_mixer.export(classifier, "web", tmp_path / "page", pixels, quantization="int8")
    with pytest.raises(ValueError, match="takes 1 channels"):
        keras_mixer.export(tiny_mixer(input_shape=(16, 16, 1)), "web", tmp_path / "page")
    (registry / "@litertjs" / "core" / "-" / f"core-{web.VERSION}.tgz").write_bytes(b"tampered with")
    with pytest.raises(OSError, match=r"The page needs LiteRT\.js: .*corrupted"):
        keras_mixer.export(classifier, "web", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_an_archive_is_downloaded_once(registry, tmp_path):
    assert package_files("@litertjs/wasm-utils") == {"dist/index.js": b"utils"}
    shutil.rmtree(registry / "@litertjs" / "wasm-utils")
    assert package_files("@litertjs/wasm-utils") == {"dist/index.js": b"utils"}
    (cached,) = (tmp_path / "home" / "keras_mixer").iterdir()
    assert cached.name == f"litertjs-wasm-utils-{web.VERSION}.tgz"
    cached.write_bytes(b"something else")
    with pytest.raises(OSError, match=r"LiteRT\.js: .*404"):  # not what it was, so it is downloaded again
        package_files("@litertjs/wasm-utils")


@pytest.fixture(scope="module")
def page(classifier, keras_home, tmp_path_factory):
    """A page with the real LiteRT.js, to be copied."""
    about = {"title": "mine", "examples": [("class 4", encode(photographs()[0], "PNG"))]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(keras_home))
        patch.setattr(classifier, "trained_on", "photographs")
        return keras_mixer.export(classifier, "web", tmp_path_factory.mktemp("web") / "page", **about).path


@pytest.fixture
def browser(tmp_path):
    """Starts Chromium on an address; killed at the end."""
    started = []

    def start(address, *options):
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        profile = f"--user-data-dir={tmp_path / f'profile-{len(started)}'}"
        command = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", profile, *options, address]
        started.append(subprocess.Popen(command, start_new_session=True, **quiet))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


SIDES = {"resize": (1, 1), "resize-crop": (16 / 18, 24 / 27), "resmall-crop": (16 / 40, 24 / 27)}  # seen of a portrait


@needs_browser
def test_a_dropped_picture_gets_the_models_probabilities(classifier, page, serve, browser, tmp_path):
    photograph = photographs()[0]
    turned = Image.Exif()
    turned[0x0112] = 6  # "rotate by 90 degrees clockwise to see it upright"
    camera = encode(photograph, "JPEG", quality=95)
    pictures = {
        "no.png": b"no image",
        "upright.png": encode(np.rot90(np.asarray(Image.open(io.BytesIO(camera))), -1), "PNG"),
        "turned.jpg": encode(photograph, "JPEG", quality=95, exif=turned),
        "small.png": encode(photograph[:9, :13], "PNG", "L"),
        "large.png": encode(photograph, "PNG"),
    }
    for crop, following in zip(SIDES, [*list(SIDES)[1:], ""], strict=True):
        folder = shutil.copytree(page, tmp_path / "site" / crop)
        for name, content in pictures.items():
            (folder / name).write_bytes(content)
        driver = DRIVER.replace("NAMES", json.dumps(list(pictures))).replace("FOLLOWING", following)
        (folder / "driver.js").write_text(driver)
        rewrite(folder / "index.html", "</head>", '<script type="module" src="driver.js"></script></head>')
        rewrite(folder / "model.json", '"resmall-crop"', f'"{crop}"')
        if crop == "resize":  # the page itself does not use a GPU made of software
            rewrite(folder / "runtime.js", " && !adapter.info.isFallbackAdapter", "")
    address, posted = serve(tmp_path / "site")
    software_gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    browser(f"{address}/resize/", *software_gpu, "--remote-debugging-port=0")
    for crop, sides in SIDES.items():
        result = posted.get(timeout=180)
        failed, upright, turned, *classified, example = result["seen"]
        np.testing.assert_allclose(turned["probabilities"], upright["probabilities"], atol=0.01)
        assert (
            np.abs(np.subtract(upright["probabilities"], classified[1]["probabilities"])).max() > 0.02
        )  # of large.png
        assert failed["message"].startswith("no.png is not an image that this browser can read")
        for found, name in zip(classified, ["small.png", "large.png"], strict=True):
            image = np.asarray(evaluated(pictures[name], (16, 24), crop), np.float32)
            expected = np.asarray(classifier(image[None]))[0]
            np.testing.assert_allclose(found["probabilities"], expected, atol=1e-3)
        assert example["probabilities"] == classified[1]["probabilities"]
        on_gpu = result["gpu"] and crop == "resize"
        assert example["device"] == ("WebGPU" if on_gpu else "WebAssembly on the CPU")
        window = upright["window"]
        np.testing.assert_allclose((window["height"], window["width"]), sides)
        np.testing.assert_allclose((window["top"], window["left"]), (1 - np.array(sides)) / 2, atol=0.02)
        shown = result["card"]
        assert shown["name"] == "mine"
        assert "photographs" in shown["facts"]
        assert shown["known"].startswith("Recognizes 10 classes: class 0, class 1")
        assert "in the frame" in shown["photo-caption"] or crop == "resize"
        assert example["device"] in shown["device"]
        best = expected.argmax()
        assert result["shown"][0].split("\n") == [f"class {best}", f"{100 * expected[best]:.1f} %"]


def rewrite(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


FRAMES = """
<script type="module">
const wanted = WANTED;
for (const id in wanted) document.body.append(Object.assign(document.createElement("iframe"), { id, src: `${id}/` }));
const text = (name) => document.getElementById(name).contentDocument?.body?.innerText ?? "";
const end = Date.now() + 100_000;
while (!Object.entries(wanted).every(([name, sentence]) => text(name).includes(sentence)) && Date.now() < end)
  await new Promise((done) => setTimeout(done, 100));
const shown = Object.keys(wanted).map((name) => [name, text(name)]);
await fetch("result", { method: "POST", body: JSON.stringify(Object.fromEntries(shown)) });
</script>
"""


@needs_browser
def test_a_page_that_cannot_run_says_why(page, serve, browser, tmp_path):
    guide = (ROOT / "docs" / "guides" / "browser.md").read_text()
    policies = {"strict": "default-src 'self'", "allowed": re.search(r"Content-Security-Policy: (.*)", guide)[1]}
    wanted = {"plain": "has not started: its JavaScript does not run here", "allowed": "The model is ready."}
    wanted["strict"] = "script-src must allow 'wasm-unsafe-eval'"
    for name in wanted:
        (tmp_path / name).symlink_to(page)
    (tmp_path / "index.html").write_text(FRAMES.replace("WANTED", json.dumps(wanted)))
    address, posted = serve(tmp_path, policies)
    browser(address, "--disable-gpu", "--remote-debugging-port=0")
    options = ["--disable-gpu", "--dump-dom", "--virtual-time-budget=20000"]
    from_file, _ = browser(f"file://{page}/index.html", *options).communicate(timeout=60)
    for name, text in (posted.get(timeout=120) | {"file": re.sub("<[^>]*>", "", from_file)}).items():
        assert wanted.get(name, wanted["plain"]) in text, name
        assert "Loading the model" not in text
