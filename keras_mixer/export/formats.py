"""The formats of `keras-mixer export`: how each is written and compared with its model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from keras_mixer.export.interchange import export_onnx, export_openvino
from keras_mixer.export.saved_model import export_saved_model, version_folder
from keras_mixer.export.tflite import export_tflite
from keras_mixer.export.web import MODEL, export_web


@dataclasses.dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: of its file or folder among the exports of a run.
        export: `(model, path, *, classifier_activation, **options)` writes `path`.
        options: names of the other keyword arguments of `export` that the command line sets.
        opened: the file in a folder that the runtime of the comparison opens; empty for the whole export.
        batch_size: images per call in the comparison, unless it is an option.
    """

    name: str
    export: Callable
    options: tuple[str, ...] = ()
    opened: str = ""
    batch_size: int = 32

    def target(self, path, version=None) -> Path:
        """The path to write for an output path: for a SavedModel, that of a version in this folder."""
        return version_folder(path, version) if "version" in self.options else Path(path)

    def write(self, model, path, settings) -> Path:
        """Writes `path`, as `target` returned it, with those of the settings that are options of this format."""
        given = {name: settings[name] for name in ("classifier_activation", *self.options) if name != "version"}
        return self.export(model, path, **given)


def _export_version(model, path, **options):
    return export_saved_model(model, path.parent, version=int(path.name), **options)


FORMATS = {
    "saved_model": Format("saved_model", _export_version, options=("version", "top_k", "precision")),
    "tflite": Format("model.tflite", export_tflite, options=("quantization", "representative_images", "batch_size")),
    "onnx": Format("model.onnx", export_onnx),
    "openvino": Format("openvino", export_openvino),
    "web": Format("web", export_web, options=("quantization", "card"), opened=MODEL, batch_size=1),
}
