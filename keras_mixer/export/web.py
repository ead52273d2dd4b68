"""A static web page that classifies images in the browser, without a server-side model."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from keras_mixer.description import architecture_of
from keras_mixer.export.npm import Package, package_files
from keras_mixer.export.predictor import Predictor, Unsupported
from keras_mixer.export.tflite import export_tflite
from keras_mixer.files import atomic_write, refuse_existing, write_json

MODEL, PAGE = "model.tflite", "web_page"
PNG = b"\x89PNG"
CORE = Package(
    "@litertjs/core",
    "2.5.3",
    "3e51a66cc3aaf568ad5fb14ed2385b749c3d1ad85ab6ccae0905e34edff0259a"
    "3414b6b0e3cab8b73f08c2a82a08892f8981abf4e1432f59029cde27cd6a3225",
)
WASM_UTILS = Package(
    "@litertjs/wasm-utils",
    "2.5.3",
    "e1f262c3ab4142722cfb48c7fce435ea760e89297cffecd99e7e61dae97c6932"
    "878b4e6c56a656e7cd139a4efca42da44f7f40f4e60155d15ac2d799fec23591",
)
# The browser downloads one of them: for WebGPU, for WebAssembly, for WebAssembly without relaxed SIMD.
RUNTIMES = ("litert_wasm_jspi_internal", "litert_wasm_internal", "litert_wasm_compat_internal")
IMPORTS = {CORE.name: "./litert/core.js", WASM_UTILS.name: "./litert/wasm-utils.js"}
LICENSES = """\
This page contains LiteRT.js (@litertjs/core {version}, https://github.com/google-ai-edge/LiteRT), Copyright Google LLC,
under the Apache License, Version 2.0 (its text is in APACHE-2.0.txt), unchanged, in the folder litert/.
The other files were written by keras_mixer, under the same license. The model belongs to its owner.
"""


@dataclasses.dataclass(frozen=True)
class Card:
    """What a page says about its model, beyond what the model itself knows.

    Attributes:
        name: of the model; the title of the page.
        accuracy: in [0, 1]; None if unknown.
        test_images: number of images it was measured on.
        examples: `(class name, encoded image)` for visitors to click; anyone who sees the page can download them.
        part: "test", or "held-out" training images.
    """

    name: str = "Image classifier"
    accuracy: float | None = None
    test_images: int | None = None
    examples: Sequence[tuple[str, bytes]] = ()
    part: str = "test"


def export_web(
    model,
    path,
    *,
    quantization=None,
    class_names=None,
    evaluation_crop=None,
    classifier_activation=None,
    card=Card(),
):
    """Writes a web page that classifies dropped images and camera frames, for any static file server.

    The model runs in the browser as a TFLite file with LiteRT.js, on the GPU where the browser has WebGPU and else on
    the CPU (WebAssembly). LiteRT.js is downloaded once from the npm registry, verified and copied into the folder; the
    page itself needs no internet. It does not work when opened as a file, because browsers then do not load modules.
    Use `python -m http.server --directory PATH`.

    Images are cropped and resized as in `keras_mixer.data.decode`. Photographs are turned as their EXIF
    orientation says, so the model sees what the visitor sees. The browser blends transparent pixels; elsewhere the
    alpha channel is dropped.

    Args:
        model: a classifier of RGB images of this package, on any backend.
        path: the folder to write; it must not exist.
        quantization: as for `export_tflite`, without "int8".
        class_names: one name per class; None for the model's own, or the class numbers.
        evaluation_crop: how images are cropped and resized; None for the model's own, or "resmall-crop".
        classifier_activation: for a model that outputs logits, "softmax" or "sigmoid"; None for the one implied by the
            compiled loss, else "softmax".
        card: what the page says about the model.

    Returns:
        The `Path`, written atomically.

    Raises:
        ValueError: the folder exists, the model has no head, or an argument is invalid.
        OSError: LiteRT.js could not be downloaded.

    Source: ours.
    """
    path = Path(path)
    refuse_existing(path)
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation).for_classes("to show")
    description = predictor.description
    if quantization == "int8":
        raise Unsupported("The page uses float pixels: quantization must be None, float16 or dynamic_int8, not int8.")
    if description.input_shape[-1] != 3:
        raise Unsupported(
            f"The page needs a model of RGB images; this one takes {description.input_shape[-1]} channels."
        )
    runtime = _runtime_files()
    with atomic_write(path) as folder:
        folder.mkdir()
        export_tflite(
            predictor.model,
            folder / MODEL,
            quantization=quantization,
            class_names=description.class_names,
            evaluation_crop=description.evaluation_crop,
        )
        examples = {_example_file(i, encoded): encoded for i, (_, encoded) in enumerate(card.examples)}
        size = (folder / MODEL).stat().st_size
        about = {"name": card.name, "model_bytes": size, "facts": _facts(predictor, card, size)}
        labels = [label for label, _ in card.examples]
        about["examples"] = [{"file": file, "label": label} for file, label in zip(examples, labels, strict=True)]
        write_json(folder / "model.json", description.as_json())
        write_json(folder / "card.json", about)
        for name, content in (_page_files() | runtime | examples).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return path


def _facts(predictor, card, size):
    """`(term, text)` pairs for the page."""
    height, width, _ = predictor.description.input_shape
    facts = {"Trained on": predictor.description.trained_on}
    if card.accuracy is not None:
        on = f" on {card.test_images:,} {card.part} images" if card.test_images else ""
        facts[f"{card.part.capitalize()} accuracy"] = f"{100 * card.accuracy:.2f} %{on}"
    facts["Architecture"] = architecture_of(predictor.model)
    facts["Size"] = f"{predictor.model.count_params():,} parameters, {size / 1e6:.1f} MB"
    facts["Input"] = f"{height} x {width} px, crop {predictor.description.evaluation_crop}"
    return [[term, text] for term, text in facts.items() if text]


def _example_file(number, encoded):
    return f"examples/{number}.{'png' if encoded.startswith(PNG) else 'jpg'}"


def _runtime_files():
    core, utils = package_files(CORE), package_files(WASM_UTILS)
    files = {"litert/core.js": core["dist/index.js"], "litert/wasm-utils.js": utils["dist/index.js"]}
    for runtime in RUNTIMES:
        for suffix in (".js", ".wasm"):
            files[f"litert/wasm/{runtime}{suffix}"] = core[f"wasm/{runtime}{suffix}"]
    return files


def _page_files():
    page = resources.files("keras_mixer.export") / PAGE
    files = {item.name: item.read_bytes() for item in page.iterdir()}
    import_map = json.dumps({"imports": IMPORTS})
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    html = files["index.html"].decode().replace("IMPORT_MAP_HASH", f"'sha256-{digest}'")
    files["index.html"] = html.replace("IMPORT_MAP", import_map).encode()
    files["LICENSES.txt"] = LICENSES.format(version=CORE.version).encode()
    return files
