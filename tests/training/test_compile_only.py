"""Steps compiled for TPUs that are not there, and that they are the steps that `fit` runs."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_mixer.training import compile_only, compile_process, loop, lowering
from keras_mixer.training.compile_only import CompileReport, count_operations, memory_of
from keras_mixer.training.largest_batch import search_largest_batch
from keras_mixer.training.recipes import resolve
from keras_mixer.training.topologies import CHIPS, TOPOLOGIES, check_topology, chip_of
from keras_mixer.training.traffic import Traffic, size_of, traffic

SMALL = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32, "randaugment_num_ops": 0}
GIB = 2**30
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="lowers on the JAX backend only")


def report(batch, *, gib=1.0, fits=True, **changes):
    values = {field.name: None for field in dataclasses.fields(CompileReport)} | {
        "global_batch_size": batch,
        "fits": fits,
        "hbm_bytes": int(gib * GIB),
        "hbm_limit_bytes": 16 * GIB,
        "argument_bytes": 0,
        "code_bytes": 0,
    }
    return CompileReport(**values | changes)


def test_topologies_have_the_names_that_people_know():
    for name in ("v5e-1", "v5e-4", "v5e-8", "v5e-16", "v5e-256", "v6e-1", "v6e-8", "v6e-256", "v4-8", "v5p-8"):
        check_topology(name)
        assert 0.95 < chip_of(name).usable_bytes / chip_of(name).hbm_bytes <= 1
    assert {chip for chip, _ in TOPOLOGIES.values()} == set(CHIPS)
    with pytest.raises(ValueError, match=r"Expected a topology from v5e-1, .*h100-8, got 'v5e-9'"):
        check_topology("v5e-9")


def test_out_of_memory_messages_are_read():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (23.46G) exceeds available HBM (15.75G). HLO module: jit_train_step."
    )
    assert compile_only.is_out_of_memory(RuntimeError(message))
    assert memory_of(message) == (int(23.46 * GIB), int(15.75 * GIB))
    assert memory_of("RESOURCE_EXHAUSTED: Used 17.20G of 15.75G hbm.") == (int(17.2 * GIB), int(15.75 * GIB))
    assert memory_of("RESOURCE_EXHAUSTED") == (None, None)
    assert not compile_only.is_out_of_memory(RuntimeError("INTERNAL: something else"))


def test_operations_are_counted_in_the_text_of_a_program():
    text = """HloModule m
ENTRY %main {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %all-reduce.1 = (f32[96]{0:T(128)}, /*index=1*/f32[4,4]{1,0:T(4,128)S(1)}) all-reduce(%p, %p), channel_id=1
  ROOT %copy.1 = f32[8,128]{1,0} copy(%p)
}"""
    assert count_operations(text) == {"parameter": 1, "all-reduce": 1, "copy": 1}


def test_sizes_in_both_memories_are_read_from_a_program():
    assert size_of("bf16[64,196,768]{2,1,0:T(8,128)(2,1)}") == (2 * 64 * 200 * 768, 0)  # padded to tiles
    assert size_of("(f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:T(128)S(6)}, pred[3])") == (3, 4 * 1024 + 4)
    program = """HloModule m

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  ROOT %f = f32[8,128]{1,0:T(8,128)} fusion(%copy-done), kind=kLoop, calls=%c, metadata={op_name="jit(train_step)/\
transpose(jvp(mixer_block_3))/token_mixing/dense_0/dot_general"}, backend_config={"estimated_cycles":"7"}
}""".replace("\\\n", "")
    moved, computed = traffic(program)
    assert (moved.operation, moved.hbm_bytes, moved.on_chip_bytes) == ("copy-done", 4096, 4096)
    assert computed == Traffic(
        "mixer_block_*/token_mixing/dense_0, backward", "dot_general", 1, 4096, 4096, estimated_cycles=7
    )


@pytest.mark.parametrize("true", [1, 3, 17, 100, 1000])
@pytest.mark.parametrize(("unit", "first"), [(1, 64), (8, 512), (16, 64)])
def test_the_largest_batch_is_found_to_an_eighth_in_few_compilations(true, unit, first):
    tried = []

    def compile_batch(batch):
        assert batch % unit == 0
        tried.append(batch)
        return report(batch, gib=min(15.9, batch / unit / 10), fits=batch <= true * unit)  # it adapts near the limit

    largest = search_largest_batch(compile_batch, unit, first)
    assert largest is not None
    assert true * 7 // 8 * unit <= largest.global_batch_size <= true * unit
    assert any(largest.global_batch_size < batch for batch in tried)
    assert len(tried) == len(set(tried)) <= 14


def test_no_batch_fits():
    assert search_largest_batch(lambda batch: report(batch, gib=20, fits=False), 8, 64) is None


def test_unknown_classes_and_a_missing_compiler_are_told(monkeypatch):
    with pytest.raises(ValueError, match="--classes"):
        next(compile_process.compile_only(resolve("digits", data="my_pictures"), "v5e-1"))
    monkeypatch.setattr(compile_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"v5e-1 needs jax and libtpu\. Use pip install 'keras-mixer\[tpu-compile\]'"):
        next(compile_process.compile_only(resolve("digits"), "v5e-1"))
    with pytest.raises(ValueError, match=r"h100-8 needs .*xla_cuda12\. Use pip install --no-deps jax-cuda12-plugin"):
        next(compile_process.compile_only(resolve("digits"), "h100-8"))


def test_published_weights_widen_the_model_without_a_download():
    sized = lowering.without_weights(resolve("finetune", image_size=448))
    assert (sized.weights, sized.tokens_mlp_dim) == (None, 4 * 384)
    stretched = lowering.without_weights(resolve("finetune", image_size=448, resolution_method="bilinear"))
    assert stretched.tokens_mlp_dim == 384


@pytest.mark.backends
def test_keras_has_what_is_replaced_to_reach_the_jitted_step():
    assert hasattr(keras.Variable([0.0]), "_value")
    assert keras.backend.backend() != "jax" or hasattr(keras.Model, "_make_function")


def without_device(text):
    """Without the notes that arguments are on one device: shapes name it, arrays on the only device do not."""
    text = re.sub(r".*@empty_mesh = .*\n", "", text)
    text = re.sub(r"sdy\.sharding = #sdy\.sharding<@empty_mesh, \[[{}, ]*\]>(, )?", "", text)
    return text.replace(" {}", "")


@on_jax
@pytest.mark.backends
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulation_steps": 2, "ema_momentum": 0.9, "drop_path_rate": 0.1, "precision": "mixed_bfloat16"},
        {"sam_rho": 0.1, "drop_path_rate": 0.1},
    ],
    ids=["plain", "all", "sam"],
)
def test_the_lowered_step_is_the_one_that_fit_runs(tmp_path, monkeypatch, count, options):
    """Word for word: the text of both programs, for training and validation."""
    import jax

    import keras_mixer

    recipe = resolve("smoke", **SMALL, global_batch_size=240, epochs=1, warmup_steps=1, **options)
    run = {}

    def recording_jit(function, **arguments):
        jitted = jax.jit(function, **arguments)

        def called(state, data):
            run.setdefault(function.__name__, jitted.lower(state, data).as_text())
            return jitted(state, data)

        return called

    with monkeypatch.context() as patch:
        patch.setattr("keras.src.backend.jax.trainer.jit", recording_jit)
        options = {"devices": str(count) if count > 1 else "cpu", "workdir": tmp_path / "run"}
        keras_mixer.fit(dataclasses.replace(recipe, devices=options["devices"]), **options, log=lambda line: None)
    devices = jax.devices("cpu")[:count]
    for step, name in {"train": "train_step", "evaluate": "test_step"}.items():
        lowered = lowering.lower_step(recipe, 10, devices, step).as_text()
        assert without_device(lowered) == without_device(run[name]), step


@on_jax
@pytest.mark.backends
def test_the_form_for_tpus_trains_the_same_weights(tmp_path, monkeypatch):
    """20 steps in float32."""
    import keras_mixer

    options = {"learning_rate": 3e-4, "steps": 20, "global_batch_size": 240, "warmup_steps": 2, "drop_path_rate": 0.1}
    options |= SMALL | {"log": lambda line: None}
    one = keras_mixer.fit("digits", workdir=tmp_path / "flattened", **options)
    choose = loop.choose_devices
    monkeypatch.setattr(
        loop, "choose_devices", lambda *arguments: dataclasses.replace(choose(*arguments), platform="tpu")
    )
    other = keras_mixer.fit("digits", workdir=tmp_path / "not", **options)
    pairs = list(zip(one.model.get_weights(), other.model.get_weights(), strict=True))
    assert max(np.abs(a - b).max() for a, b in pairs) <= 1e-6
    assert one.history["val_loss"] == pytest.approx(other.history["val_loss"], rel=1e-5)


needs_libtpu = pytest.mark.skipif(
    compile_process.importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the TPU compiler, is not installed: pip install 'keras-mixer[tpu-compile]'",
)


def compiled(recipe, topology, **options):
    reports = list(compile_process.compile_only(recipe, topology, **options))
    return reports[-1]


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.parametrize(("topology", "chips", "all_reduces"), [("v5e-1", 1, 0), ("v5e-8", 8, 1)])
def test_a_small_mixer_compiles_with_one_reduction_and_its_state_donated(topology, chips, all_reduces):
    found = compiled(resolve("smoke"), topology)
    assert (found.chips, found.images_per_chip, found.fits) == (chips, 64 // chips, True)
    assert found.device_kind == "TPU v5 lite"
    assert (found.all_reduces, found.all_gathers) == (all_reduces, 0)
    assert found.alias_bytes > 0.99 * found.output_bytes
    assert 1 < found.flops / found.model_flops < 1.25  # tokens padded to what the chip multiplies, and AdamW
    assert found.versions["libtpu"]


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.parametrize("step", ["evaluate", "features"])
def test_the_other_steps_compile(step):
    found = compiled(resolve("smoke"), "v5e-8", step=step)
    assert found.fits
    assert found.all_reduces == (1 if step == "evaluate" else 0)


@needs_libtpu
@pytest.mark.tpu_compile
def test_the_command_writes_its_report_and_nothing_of_the_compiler(tmp_path):
    arguments = ["compile", "imagenet1k_b16", "--topology", "v5e-4", "--variant", "S/32", "--global-batch-size", "256"]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(
        [sys.executable, "-m", "keras_mixer", *arguments, "--output", str(tmp_path / "report.json")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    (content,) = json.loads((tmp_path / "report.json").read_text())
    assert content["fits"]
    assert 0.95 < content["flops"] / content["model_flops"] < 1.05
    assert "images per chip" in run.stdout
    assert "nothing about speed" in " ".join(run.stdout.split())
    assert "libtpu" not in run.stderr


@pytest.mark.skipif(
    not compile_process._is_installed("jax_plugins.xla_cuda12"),
    reason="JAX's CUDA plug-in is not installed: pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt",
)
@pytest.mark.tpu_compile
def test_a_small_mixer_compiles_for_gpus():
    found = compiled(resolve("smoke"), "h100-8")
    assert (found.chips, found.device_kind, found.fits) == (8, "NVIDIA H100 80GB HBM3", True)
    assert found.all_reduces >= 1
    assert found.all_gathers == 0
