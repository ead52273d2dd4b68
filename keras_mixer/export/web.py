"""A static web page that classifies dropped images and camera frames in the browser, by LiteRT.js."""

import contextlib
import importlib.resources
import io
import json
import os
import tarfile
from typing import Literal

import keras
from PIL import Image

from keras_mixer.anatomy import Anatomy
from keras_mixer.data.decode import image_of
from keras_mixer.export.runtimes import WEB_FILE
from keras_mixer.export.tflite import write_tflite
from keras_mixer.training.recipe import check
from keras_mixer.variants import KNOWN_VARIANTS, as_pair

PAGE = "web_page"
VERSION = "2.5.3"  # of LiteRT.js
PACKAGES = {  # of the npm registry, with the SHA-256 of their archives
    "@litertjs/core": "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd",
    "@litertjs/wasm-utils": "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7",
}
# The browser downloads one of them: for WebGPU, for WebAssembly, for WebAssembly without relaxed SIMD.
RUNTIMES = ("litert_wasm_jspi_internal", "litert_wasm_internal", "litert_wasm_compat_internal")
CANDIDATES = 50  # test images to choose examples from
LONGEST_SIDE = 512  # pixels; larger photographs are reduced


def write_web(predictor, folder, *, quantization=None, title="Image classifier", facts=None, examples=()):
    """Writes a folder for any static file server, with a TFLite file and LiteRT.js; all can download the examples."""
    check("quantization", quantization, Literal[None, "float16", "dynamic_int8"])  # the pixels of the page are float
    height, width, channels = predictor.for_classes("to show").input_shape
    if channels != 3:
        raise ValueError(f"The page needs a model of RGB images; this one takes {channels} channels.")
    page = importlib.resources.files("keras_mixer.export") / PAGE
    files = {item.name: item.read_bytes() for item in page.iterdir()} | _runtime_files()
    files["LICENSES.txt"] = files["LICENSES.txt"].replace(b"VERSION", VERSION.encode())
    folder.mkdir()
    write_tflite(predictor, folder / WEB_FILE, quantization=quantization)
    size = (folder / WEB_FILE).stat().st_size
    shown = {
        "Trained on": predictor.facts.trained_on,
        **(facts or {}),
        "Architecture": described(Anatomy(predictor.model).variant()),
        "Size": f"{predictor.model.count_params():,} parameters, {size / 1e6:.1f} MB",
        "Input": f"{height} x {width} px, crop {predictor.facts.evaluation_crop}",
    }
    card = {"name": title, "model_bytes": size, "facts": [[term, str(text)] for term, text in shown.items() if text]}
    card["examples"] = [{"file": f"examples/{i}.png", "label": label} for i, (label, _) in enumerate(examples)]
    files |= {f"examples/{i}.png": image for i, (_, image) in enumerate(examples)}
    files |= {"model.json": predictor.as_json().encode(), "card.json": json.dumps(card).encode()}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def described(variant) -> str:
    """The sizes of a model in words, such as "Mixer B/16: 12 blocks, 768 channels, patches of 16 x 16 px"."""
    known = [name for name, sizes in KNOWN_VARIANTS.items() if sizes == variant]
    height, width = as_pair(variant.patch_size)
    blocks = f"{variant.num_blocks} blocks, {variant.hidden_dim} channels"
    return f"{' '.join(['Mixer', *known])}: {blocks}, patches of {height} x {width} px"


def _runtime_files():
    core, utils = map(package_files, PACKAGES)
    files = {"litert/wasm-utils.js": utils["dist/index.js"]}
    files["litert/core.js"] = core["dist/index.js"].replace(b'"@litertjs/wasm-utils"', b'"./wasm-utils.js"')
    wasm = [f"wasm/{runtime}{suffix}" for runtime in RUNTIMES for suffix in (".js", ".wasm")]
    return files | {f"litert/{name}": core[name] for name in wasm}


def package_files(package) -> dict[str, bytes]:
    """The files of an npm package by their paths inside it; downloaded on first use into Keras's cache (`KERAS_HOME`).

    OSError if it cannot be downloaded (put the archive that `npm pack` writes into the cache), or is another one.
    """
    scope, name = package.lstrip("@").split("/")
    registry = (os.environ.get("NPM_CONFIG_REGISTRY") or "https://registry.npmjs.org").rstrip("/")  # as npm has it
    url, file = f"{registry}/{package}/-/{name}-{VERSION}.tgz", f"{scope}-{name}-{VERSION}.tgz"
    cache = {"cache_dir": os.environ.get("KERAS_HOME"), "cache_subdir": "keras_mixer"}
    try:
        archive = keras.utils.get_file(file, url, file_hash=PACKAGES[package], hash_algorithm="sha256", **cache)
    except Exception as error:  # Keras raises Exception itself
        raise OSError(f"The page needs LiteRT.js: {error}") from error
    with tarfile.open(archive) as members:
        files = {one.name.removeprefix("package/"): members.extractfile(one) for one in members}
        return {name: file.read() for name, file in files.items() if file}


def example_images(split, class_names, count) -> list[tuple[str, bytes]]:
    """`(class name, PNG file)` of up to `count` test images, each of another class, reduced and without camera data."""
    found: dict[int, bytes] = {}
    for example in split.subsample(CANDIDATES).elements.map(split.read) if count else ():
        if int(example["label"]) not in found:
            with contextlib.suppress(Exception):  # damaged images are no examples
                image, file = Image.fromarray(image_of(example).numpy()), io.BytesIO()
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                image.save(file, "PNG")
                found[int(example["label"])] = file.getvalue()
    labels, shown = sorted(found), min(count, len(found))
    spread = (labels[i * len(labels) // shown] for i in range(shown))  # similar classes are often next to each other
    return [(class_names[label], found[label]) for label in spread]
