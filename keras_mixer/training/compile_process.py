"""Compiles in a child process: libtpu writes to standard error, and the Keras backend of this process may differ."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_mixer.training.compile_only import CompileReport, compile_step
from keras_mixer.training.largest_batch import search_largest_batch
from keras_mixer.training.plan import plan
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import recipe_from
from keras_mixer.training.topologies import check_topology, chip_of, topology_devices

PACKAGE_PARENT = Path(__file__).parents[2]
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock is for chips, and there are none
    "TPU_SKIP_MDS_QUERY": "1",  # ask no server of Google's cloud where this is
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def compile_only(
    recipe: Recipe, topology, *, classes=None, step="train", largest_batch=False, details=False
) -> Iterator[CompileReport]:
    """Compiles the step of a recipe with the real compiler, for chips that need not be present.

    It proves that the step lowers, partitions and fits. It says nothing about speed, and nothing about numbers.

    Args:
        recipe: what to train. Neither its data nor its weights are read.
        topology: name of a TPU slice or GPU machine, such as "v5e-8"; see `keras_mixer.training.topologies.TOPOLOGIES`.
        classes: outputs of the head; None for those of a data set that `keras_mixer.training.plan` knows.
        step: "train", "evaluate" or "features".
        largest_batch: search the largest global batch that fits, from the recipe's on.
        details: fill `CompileReport.traffic`, the memory traffic of the program by layer and operation.

    Yields:
        A `CompileReport` for each program that was compiled, as soon as it is.

    Raises:
        ValueError: no compiler, unknown topology or number of classes, or the batch cannot be shared by the chips.
        RuntimeError: the compiler failed for another reason than memory; carries the end of what it printed.

    Source: ours. The programs were not run on a TPU.
    """
    check_topology(topology)
    classes = classes or plan(recipe).classes
    if classes is None:
        raise ValueError(f"The number of classes of {recipe.data!r} is not known before it is read. Use --classes.")
    chip = chip_of(topology)
    missing = [name for name in chip.needs if not _is_installed(name)]
    if missing:
        raise ValueError(f"Compiling for {topology} needs {' and '.join(missing)}. Use pip install {chip.install}.")
    request = {
        "recipe": dataclasses.asdict(recipe),
        "topology": topology,
        "classes": classes,
        "step": step,
        "largest_batch": largest_batch,
        "details": details,
    }
    paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryFile("w+") as noise:
        child = subprocess.Popen(
            [sys.executable, "-m", "keras_mixer.training.compile_process", json.dumps(request)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=noise,
            text=True,
        )
        try:
            for line in child.stdout or ():
                content = json.loads(line)
                if "error" in content:
                    raise ValueError(content["error"])
                yield CompileReport(**content)
            if child.wait():
                noise.seek(0)
                raise RuntimeError(f"The compiler ended with status {child.returncode}:\n{noise.read()[-2000:]}")
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()


def _is_installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _run(request):
    """The child's side: one JSON object a line on standard output, to which nothing else may write."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)

        def answer(content):
            print(json.dumps(content), file=answers, flush=True)

        recipe = recipe_from(json.dumps(request["recipe"]).encode())

        def compile_batch(size):
            batch = dataclasses.replace(recipe, global_batch_size=size, data_shards=1)  # reading is not compiled
            options = {"classes": request["classes"], "step": request["step"], "details": request["details"]}
            report = compile_step(batch, request["topology"], **options)
            answer(dataclasses.asdict(report))
            return report

        try:
            if request["largest_batch"]:
                unit = len(topology_devices(request["topology"])) * recipe.accumulation_steps
                search_largest_batch(compile_batch, unit, recipe.global_batch_size)
            else:
                compile_batch(recipe.global_batch_size)
        except ValueError as error:
            answer({"error": str(error)})


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        _run(json.loads(sys.argv[1]))
