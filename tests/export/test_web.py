"""The page for browsers; the one test that drops a picture on it needs Chromium and LiteRT.js."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from image_files import encode, photographs
from PIL import Image

from keras_mixer.data.preprocessing import evaluation_image
from keras_mixer.export import npm, web
from keras_mixer.export.npm import package_files

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CACHE = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer")
CACHED = all((CACHE / name).is_file() for name in ("litertjs-core-2.5.3.tgz", "litertjs-wasm-utils-2.5.3.tgz"))
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
const shown = [...document.querySelectorAll("#bars li")].map((item) => item.innerText);
await fetch("result", { method: "POST", body: JSON.stringify({ seen, shown, loading: text("error") }) });
"""


def test_the_page_has_all_that_it_needs_beside_it(classifier, registry, tmp_path):
    page = web.export_web(classifier, tmp_path / "page", quantization="dynamic_int8")
    names = {str(file.relative_to(page)) for file in page.rglob("*") if file.is_file()}
    assert names >= {"index.html", "app.js", "pixels.js", "style.css", "model.json", "model.tflite", "LICENSES.txt"}
    assert "APACHE-2.0.txt" in (page / "LICENSES.txt").read_text()  # the licence of LiteRT.js wants its text beside it
    assert (page / "APACHE-2.0.txt").read_text().strip().startswith("Apache License")
    assert (page / "litert" / "core.js").read_bytes() == b"dist/index.js"
    assert {path.name for path in (page / "litert" / "wasm").iterdir()} == {
        f"{name}{suffix}" for name in web.RUNTIMES for suffix in (".js", ".wasm")
    }
    html = (page / "index.html").read_text()
    import_map = html.split('<script type="importmap">')[1].split("</script>")[0]
    for target in json.loads(import_map)["imports"].values():
        assert (page / target).is_file()
    for word in ("http:", "https:", "IMPORT_MAP"):  # nothing from elsewhere
        assert word not in html
    description = json.loads((page / "model.json").read_text())
    assert description["class_names"] == list(classifier.class_names)
    assert description["evaluation_crop"] == "resmall-crop"


def test_what_the_page_cannot_do_is_refused(classifier, tiny_mixer, registry, tmp_path):
    with pytest.raises(ValueError, match="None, float16 or dynamic_int8, not int8"):
        web.export_web(classifier, tmp_path / "page", quantization="int8")
    with pytest.raises(ValueError, match="takes 1 channels"):
        web.export_web(tiny_mixer(input_shape=(16, 16, 1)), tmp_path / "page")
    (tmp_path / "page").mkdir()
    with pytest.raises(ValueError, match="not overwritten"):
        web.export_web(classifier, tmp_path / "page")


def test_an_archive_is_downloaded_once_and_checked_always(registry, tmp_path):
    assert package_files(web.WASM_UTILS) == {"dist/index.js": b"utils"}
    shutil.rmtree(registry / "@litertjs" / "wasm-utils")
    assert package_files(web.WASM_UTILS) == {"dist/index.js": b"utils"}
    (cached,) = (tmp_path / "home" / "keras_mixer").iterdir()
    assert cached.name == "litertjs-wasm-utils-2.5.3.tgz"
    cached.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"SHA-512 differs\): .*tgz; remove it to download it again"):
        package_files(web.WASM_UTILS)
    cached.unlink()
    with pytest.raises(OSError, match=r"Downloading http://127.* failed: HTTP Error 404"):
        package_files(web.WASM_UTILS)
    (registry / "@litertjs" / "core" / "-" / web.CORE.file).write_bytes(b"tampered with")
    with pytest.raises(ValueError, match=r"SHA-512 differs\): http"):
        package_files(web.CORE)
    assert not list((tmp_path / "home" / "keras_mixer").iterdir())
    assert npm.REGISTRY.startswith("https://")


@pytest.mark.skipif(not (CHROMIUM and CACHED), reason="needs Chromium, and LiteRT.js in the cache of an earlier export")
@pytest.mark.parametrize("crop", ["resize", "resize-crop", "resmall-crop"])
def test_a_dropped_picture_gets_the_models_probabilities(classifier, serve, tmp_path, crop):
    page = web.export_web(classifier, tmp_path / "page", evaluation_crop=crop)
    photograph = photographs()[0]
    turned = Image.Exif()
    turned[0x0112] = 6  # "rotate by 90 degrees to see it upright"
    pictures = {
        "large.png": encode(photograph, "PNG"),
        "small.png": encode(photograph[:9, :13], "PNG", "L"),
        "no.png": b"no image",
        "camera.jpg": encode(photograph, "JPEG"),
        "turned.jpg": encode(photograph, "JPEG", exif=turned),
    }
    for name, content in pictures.items():
        (page / name).write_bytes(content)
    (page / "driver.js").write_text(
        DRIVER.replace("NAMES", json.dumps(["no.png", "camera.jpg", "turned.jpg", "large.png", "small.png"]))
    )
    html = (page / "index.html").read_text()
    (page / "index.html").write_text(html.replace("</head>", '<script type="module" src="driver.js"></script></head>'))
    address, posted, arrived = serve(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen([CHROMIUM, *options, profile, address], start_new_session=True, **quiet)
    try:
        assert arrived.wait(60)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
    failed, upright, turned, *classified = posted[0]["seen"]
    assert turned["probabilities"] == upright["probabilities"]
    assert failed["message"].startswith("no.png is not an image that this browser can read")
    for result, name in zip(classified, ["large.png", "small.png"], strict=True):
        image = np.asarray(evaluation_image(pictures[name], (16, 24), crop), np.float32)
        expected = np.asarray(classifier(image[None]))[0]
        np.testing.assert_allclose(result["probabilities"], expected, atol=1e-3)
    best = expected.argmax()
    assert posted[0]["shown"][0].split("\n") == [f"class {best}", f"{100 * expected[best]:.1f} %"]
