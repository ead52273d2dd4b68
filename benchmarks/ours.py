"""Contestant: this package, and the matrix product in the same framework.

Arguments: `rematerialize`; `xla` compiles with XLA; `export` runs a SavedModel of the precision of the case.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from protocol import serve
from saved_model_session import session_of

from keras_mixer.inspect.speed import Case, model_of, prepare, prepare_limit

REMATERIALIZE, XLA, EXPORT = (word in sys.argv[1:] for word in ("rematerialize", "xla", "export"))


def _exported(case):
    from keras_mixer.export.saved_model import export_saved_model

    if case.kind != "forward":
        raise ValueError("an export does not train")
    model = model_of(Case(case.kind, case.variant, case.batch_size, image_size=case.image_size))
    with tempfile.TemporaryDirectory() as folder:
        export_saved_model(model, Path(folder, "export"), precision=case.precision)
        run = session_of(Path(folder, "export"))
    size = case.image_size
    images = np.random.default_rng(0).integers(0, 256, (case.batch_size, size, size, 3)).astype(np.float32)
    return lambda: run(images)


def _prepare(case):
    if case["kind"] == "limit":
        return prepare_limit(case["precision"])
    if EXPORT:
        return _exported(Case(**case))
    return prepare(Case(**case), REMATERIALIZE, True if XLA else "auto")


serve(_prepare)
