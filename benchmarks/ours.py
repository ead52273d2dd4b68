"""Contestant: this package, and the matrix product in the same framework.

Arguments: `rematerialize`; `xla` compiles with XLA; `load` runs what `keras_mixer.load` makes of a `.keras` file in the
precision of the case, `export` a SavedModel; `litert` and a quantization (or `float32`) a LiteRT file on two threads.
"""

import functools
import sys
import tempfile
from pathlib import Path

from protocol import serve
from speed import Case, images_of, model_of, prepare, prepare_limit, session_of

import keras_mixer
from keras_mixer.export.predictor import Predictor

WORDS = sys.argv[1:]
THREADS = 2


def _opened(case):
    """A `.keras` file, or a SavedModel as TensorFlow Serving runs it; converted from the float32 model."""
    model = model_of(Case(case.kind, case.variant, case.batch_size, image_size=case.image_size))
    if "load" in WORDS:
        return functools.partial(Predictor.of(model, precision=case.precision).run, images_of(case))
    with tempfile.TemporaryDirectory() as folder:
        keras_mixer.export_saved_model(model, Path(folder, "export"), precision=case.precision)
        run = session_of(Path(folder, "export"))
    return functools.partial(run, images_of(case))


def _litert(case, quantization):
    from ai_edge_litert.interpreter import Interpreter

    images, options = images_of(case), {"batch_size": case.batch_size}
    if quantization != "float32":
        options["quantization"] = quantization
    if quantization == "int8":
        options["representative_images"] = images
    with tempfile.TemporaryDirectory() as folder:
        keras_mixer.export_tflite(model_of(case), Path(folder, "model.tflite"), **options)
        content = Path(folder, "model.tflite").read_bytes()
    runner = Interpreter(model_content=content, num_threads=THREADS).get_signature_runner("serving_default")
    images = images.astype(runner.get_input_details()["image"]["dtype"])
    return lambda: runner(image=images)["probabilities"]


def _prepare(request):
    if request["kind"] == "limit":
        return prepare_limit(request["precision"])
    case = Case(**request)
    if not {"export", "litert", "load"} & set(WORDS):
        return prepare(case, "rematerialize" in WORDS, "xla" in WORDS or "auto")
    if case.kind != "forward":
        raise ValueError("a file does not train")
    return _litert(case, WORDS[-1]) if "litert" in WORDS else _opened(case)


serve(_prepare)
