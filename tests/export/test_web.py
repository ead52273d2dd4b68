"""The page for browsers; the test that opens it needs Chromium and LiteRT.js."""

import contextlib
import functools
import hashlib
import io
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs, turned
from pages import ROOT
from PIL import Image

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.splits import Split
from keras_mixer.export import web
from keras_mixer.export.web import LONGEST_SIDE, example_images

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")


@pytest.fixture
def written_before(tflite_file, monkeypatch):
    """Pages get a file of the classifier that exists already."""
    monkeypatch.setattr(web, "write_tflite", lambda _, path, **options: shutil.copy(tflite_file, path))


def test_the_page_of_a_run_has_all_that_it_needs(classifier, written_before, litert, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "class_names", tuple("0123456789"))
    monkeypatch.setattr(classifier, "trained_on", "scikit-learn digits")
    run = tmp_path / "my run"
    run.mkdir()
    classifier.save(run / "model.keras")
    (run / "config.json").write_text(json.dumps({"name": "digits", "data": "digits"}))
    (run / "results.json").write_text(json.dumps({"accuracy": 0.5, "test_images": 360, "part": "held-out"}))
    assert cli.main(["export", str(run), "--format", "web", "--images", "4", "--examples", "2"]) == 0
    page = run / "export" / "web"
    needed = "index.html app.js pixels.js runtime.js style.css model.json model.tflite"
    wasm = {f"litert/wasm/{name}{suffix}" for name in web.RUNTIMES for suffix in (".js", ".wasm")}
    assert {file.relative_to(page).as_posix() for file in page.rglob("*")} >= wasm | set(needed.split())
    assert f"@litertjs/core {web.VERSION}" in (page / "LICENSES.txt").read_text()
    assert (page / "APACHE-2.0.txt").read_text().strip().startswith("Apache License")  # LiteRT.js requires its text
    assert (page / "litert" / "core.js").read_text() == 'import { load } from "./wasm-utils.js";'
    for word in ("http:", "https:", "<script>"):  # nothing from elsewhere, nothing that default-src 'self' forbids
        assert word not in (page / "index.html").read_text()
    card = json.loads((page / "card.json").read_text())
    assert (card["name"], card["model_bytes"]) == ("my run", (page / "model.tflite").stat().st_size)
    assert card["facts"][:3] == [
        ["Trained on", "scikit-learn digits"],
        ["Held-out accuracy", "50.00 % on 360 held-out images"],
        ["Architecture", "Mixer: 2 blocks, 32 channels, patches of 4 x 4 px"],
    ]
    assert len({example["label"] for example in card["examples"]}) == 2
    assert all((page / example["file"]).read_bytes().startswith(b"\x89PNG") for example in card["examples"])


def test_examples_are_of_different_classes_small_and_without_camera_data():
    place = Image.Exif()
    place[0x010E] = "my garden"
    large, small = encode(photographs()[0], "JPEG", exif=place), photographs()[0][:200, :300]
    assert b"my garden" in large
    images = tf.constant([large, b"damaged", encode(small, "PNG"), large, encode(small, "BMP")])
    elements = tf.data.Dataset.from_tensor_slices({"image": images, "label": [1, 0, 0, 1, 2]})
    split = Split(5, 3, elements, read=lambda element: element)
    (name, first), (_, second), (_, third) = example_images(split, "abc", 3)
    assert (name, third[:4]) == ("a", b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(first))), small)
    assert b"my garden" not in second
    assert max(Image.open(io.BytesIO(second)).size) == LONGEST_SIDE
    assert [name for name, _ in example_images(split, "abc", 2)] == ["a", "b"]


def test_what_the_page_cannot_do_is_refused(classifier, tiny_mixer, litert, pixels, tmp_path):
    with pytest.raises(ValueError, match="must be None, 'float16' or 'dynamic_int8', got 'int8'"):
        keras_mixer.export(classifier, "web", tmp_path / "page", pixels, quantization="int8")
    with pytest.raises(ValueError, match="takes 1 channels"):
        keras_mixer.export(tiny_mixer(input_shape=(16, 16, 1)), "web", tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_litert_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    file, home = tmp_path / "@litertjs" / "core" / "-" / f"core-{web.VERSION}.tgz", tmp_path / "home"
    file.parent.mkdir(parents=True)
    with tarfile.open(file, "w:gz") as archive:
        archive.add(__file__, "package/dist/index.js")
    monkeypatch.setitem(web.PACKAGES, "@litertjs/core", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{tmp_path.as_uri()}/")
    monkeypatch.setenv("KERAS_HOME", str(home))
    home.mkdir()
    for _ in range(2):
        assert web.package_files("@litertjs/core") == {"dist/index.js": Path(__file__).read_bytes()}
        file.write_bytes(b"tampered with")
    shutil.rmtree(home / "keras_mixer")
    with pytest.raises(OSError, match=r"The page needs LiteRT\.js: .*corrupted"):
        web.package_files("@litertjs/core")


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CACHE = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer")
CACHED = all((CACHE / name).is_file() for name in ("litertjs-core-2.5.3.tgz", "litertjs-wasm-utils-2.5.3.tgz"))
CROPS = ("resize", "resize-crop", "resmall-crop")
SENTENCES = {
    "strict": "script-src must allow 'wasm-unsafe-eval'",
    "allowed": "The model is ready.",
    "plain": "has not started: its JavaScript does not run here",  # its files have no MIME type for it, as in file://
}
DRIVER = """
const seen = [];
for (const kind of ["classified", "failed"])
  document.addEventListener(kind, (event) => seen.push(event.detail));
const until = async (condition) => { while (!condition()) await new Promise((done) => setTimeout(done, 20)); };
const text = (id) => document.getElementById(id).textContent;
await until(() => text("status").includes("ready") || text("error"));
const act = async (action) => { const before = seen.length; action(); await until(() => seen.length > before); };
for (const name of NAMES) {
  const files = new DataTransfer();
  files.items.add(new File([await (await fetch(name)).blob()], name));
  const drop = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
  await act(() => document.body.dispatchEvent(drop));
}
await act(() => document.querySelector(".example").click());
const card = ["name", "known", "facts", "device", "bars"].map(text).join(" ");
const gpu = Boolean(await navigator.gpu?.requestAdapter());
await fetch("result", { method: "POST", body: JSON.stringify({ gpu, seen, card }) });
location = "NEXT";
"""
FRAMES = """
<script type="module">
const wanted = SENTENCES;
for (const id in wanted) document.body.append(Object.assign(document.createElement("iframe"), { id, src: `${id}/` }));
const text = (name) => document.getElementById(name).contentDocument?.body?.innerText ?? "";
for (const name in wanted)
  while (!text(name).includes(wanted[name]) || text(name).includes("Loading the model"))
    await new Promise((done) => setTimeout(done, 100));
await fetch("result", { method: "POST", body: '"every page says what it should"' });
</script>
"""


@contextlib.contextmanager
def serving(folder, policies, posted):
    """The address of a static server that sends each sub-folder's policy, and keeps what is posted to it."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def guess_type(self, path):
            return "text/plain" if re.match("/plain/.*js$", self.path) else super().guess_type(path)

        def end_headers(self):
            if (part := self.path.split("/")[1]) in policies:
                self.send_header("Content-Security-Policy", policies[part])
            super().end_headers()

        def do_POST(self):
            posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def rewrite(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


@pytest.mark.skipif(not (CHROMIUM and CACHED), reason="needs Chromium, and LiteRT.js in the cache of an earlier export")
def test_in_a_browser_the_page_gives_the_models_probabilities_or_says_why(classifier, written_before, tmp_path):
    photograph, site, posted = photographs()[0], tmp_path / "site", queue.Queue()
    about = {"title": "mine", "examples": [("class 4", encode(photograph, "PNG"))]}
    page = keras_mixer.export(classifier, "web", tmp_path / "page", **about).path
    pictures = {
        "no.png": b"no image",
        "upright.png": encode(np.rot90(np.asarray(Image.open(io.BytesIO(encode(photograph, "JPEG")))), -1), "PNG"),
        "turned.jpg": turned(photograph),
        "small.png": encode(photograph[:9, :13], "PNG", "L"),
        "large.png": encode(photograph, "PNG"),
    }
    for crop, following in zip(CROPS, ["../resize-crop/", "../resmall-crop/", "../"], strict=True):
        folder = shutil.copytree(page, site / crop)
        for name, content in pictures.items():
            (folder / name).write_bytes(content)
        (folder / "driver.js").write_text(DRIVER.replace("NAMES", json.dumps([*pictures])).replace("NEXT", following))
        rewrite(folder / "index.html", "</head>", '<script type="module" src="driver.js"></script></head>')
        rewrite(folder / "model.json", '"resmall-crop"', f'"{crop}"')
        if crop == "resize":  # the page itself does not use a GPU made of software
            rewrite(folder / "runtime.js", " && !adapter.info.isFallbackAdapter", "")
    for name in SENTENCES:
        (site / name).symlink_to(page)
    (site / "index.html").write_text(FRAMES.replace("SENTENCES", json.dumps(SENTENCES)))
    guide = (ROOT / "docs" / "guides" / "browser.md").read_text()
    policies = {"strict": "default-src 'self'", "allowed": re.search(r"Content-Security-Policy: (.*)", guide)[1]}
    software_gpu = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    with serving(site, policies, posted) as address:
        options = [*software_gpu, "--remote-debugging-port=0", f"{address}/resize/"]
        chromium = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            results = {crop: posted.get(timeout=180) for crop in CROPS}
            assert posted.get(timeout=120) == "every page says what it should"
        finally:
            os.killpg(chromium.pid, signal.SIGKILL)
            chromium.wait()
    for crop, result in results.items():
        failed, upright, from_camera, small, large, example = result["seen"]
        assert failed["message"].startswith("no.png is not an image that this browser can read")
        np.testing.assert_allclose(from_camera["probabilities"], upright["probabilities"], atol=0.01)
        for found, name in [(small, "small.png"), (large, "large.png"), (example, "large.png")]:
            image = np.asarray(evaluated(pictures[name], (16, 24), crop), np.float32)
            expected = np.asarray(classifier(image[None]))[0]
            np.testing.assert_allclose(found["probabilities"], expected, atol=1e-3)
        assert example["device"] == ("WebGPU" if result["gpu"] and crop == "resize" else "WebAssembly on the CPU")
        best = f"class {expected.argmax()}", f"{100 * expected.max():.1f} %"
        for text in ("mine", "Recognizes 10 classes: class 0, class 1", example["device"], *best):
            assert text in result["card"]
