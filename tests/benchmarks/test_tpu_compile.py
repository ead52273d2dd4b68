"""Steps compiled for TPUs that are not there, and that they are the steps that `fit` runs."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys

import keras
import pytest
import tpu_compile

import keras_mixer
from keras_mixer.training.recipes import resolve

SMALL = {"num_blocks": 1, "hidden_dim": 16, "tokens_mlp_dim": 8, "channels_mlp_dim": 32, "randaugment_num_ops": 0}
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the TPU compiler, is not installed: pip install 'keras-mixer[tpu-compile]'",
)


def test_failures_and_programs_are_read():
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, temporaries (23.46G) exceed available HBM (15.75G)."
    assert tpu_compile.is_out_of_memory(RuntimeError(message))
    assert tpu_compile.is_out_of_memory(RuntimeError("Used 17.20G of 15.75G hbm."))
    assert not tpu_compile.is_out_of_memory(RuntimeError("INTERNAL: something else"))
    text = """HloModule m
ENTRY %main {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0), sharding={replicated}
  %all-reduce.1 = (f32[96]{0:T(128)}, /*index=1*/f32[4,4]{1,0:T(4,128)S(1)}) all-reduce(%p, %p), channel_id=1
  ROOT %copy.1 = f32[8,128]{1,0} copy(%p)
}"""
    assert tpu_compile.count_operations(text) == {"parameter": 1, "all-reduce": 1, "copy": 1}


@pytest.mark.parametrize(("unit", "first"), [(1, 64), (8, 512), (16, 64)])
def test_the_largest_batch_is_found_to_an_eighth_in_few_compilations(unit, first):
    for true in (0, 1, 3, 17, 100, 1000):
        tried = []

        def compile_batch(batch, most=true * unit, tried=tried):
            assert batch % unit == 0
            tried.append(batch)
            gib = min(15.9, batch / unit / 10)  # XLA adapts near the limit
            sizes = {"hbm_bytes": gib * 2**30, "hbm_limit_bytes": 16 * 2**30, "argument_bytes": 0, "code_bytes": 0}
            return sizes | {"global_batch_size": batch, "fits": batch <= most}

        largest = tpu_compile.search_largest_batch(compile_batch, unit, first)
        assert len(tried) == len(set(tried)) <= 14
        if not true:
            assert largest is None
            continue
        assert true * 7 // 8 * unit <= largest["global_batch_size"] <= true * unit
        assert any(largest["global_batch_size"] < batch for batch in tried)


def test_what_cannot_be_compiled_is_told_with_the_remedy(monkeypatch):
    with pytest.raises(ValueError, match="tokens_mlp_dim=N"):
        tpu_compile.without_weights(resolve("finetune", image_size=448))
    wide = tpu_compile.without_weights(resolve("finetune", image_size=448, tokens_mlp_dim=1536))
    assert (wide.weights, wide.tokens_mlp_dim) == (None, 1536)
    monkeypatch.setattr(tpu_compile, "check_compiler", lambda topology: "libtpu")
    with pytest.raises(ValueError, match="--classes"):
        tpu_compile.compile_step(resolve("digits", data="my_pictures"), "v5e-1")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"v5e-1 needs jax and libtpu\. Use pip install 'keras-mixer\[tpu-compile\]'"):
        tpu_compile.check_compiler("v5e-1")
    with pytest.raises(ValueError, match=r"h100-8 needs .*cuda12.*\. Use pip install --no-deps jax-cuda12-plugin"):
        tpu_compile.check_compiler("h100-8")


def without_device(text):
    """Without the notes that arguments are on one device: shapes name it, arrays on the only device do not."""
    text = re.sub(r".*@empty_mesh = .*\n", "", text)
    text = re.sub(r"sdy\.sharding = #sdy\.sharding<@empty_mesh, \[[{}, ]*\]>(, )?", "", text)
    return text.replace(" {}", "")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="lowers on the JAX backend only")
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
    """Word for word: the text of both programs."""
    import jax

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
        devices = str(count) if count > 1 else "cpu"
        keras_mixer.fit(dataclasses.replace(recipe, devices=devices), workdir=tmp_path / "run", log=lambda line: None)
    lowered = tpu_compile.lower_step(recipe, 10, jax.devices("cpu")[:count]).as_text()
    assert without_device(lowered) == without_device(run["train_step"])


def compiled(path, *arguments):
    """The reports that the script writes, and what it prints."""
    command = [sys.executable, tpu_compile.__file__, *arguments, "--output", path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(path.read_text()), run.stdout


@needs_libtpu
@pytest.mark.tpu_compile
@pytest.mark.parametrize(("topology", "chips", "all_reduces"), [("v5e-1", 1, 0), ("v5e-8", 8, 1)])
def test_a_small_mixer_compiles_with_one_reduction_and_its_state_donated(tmp_path, topology, chips, all_reduces):
    (found,), printed = compiled(tmp_path / "report.json", "smoke", "drop_path_rate=0.1", "--topology", topology)
    assert (found["chips"], found["images_per_chip"], found["fits"]) == (chips, 64 // chips, True)
    assert found["device_kind"] == "TPU v5 lite"
    assert (found["all_reduces"], found["all_gathers"]) == (all_reduces, 0)
    assert found["alias_bytes"] > 0.99 * found["output_bytes"]
    assert 1 < found["flops"] / found["model_flops"] < 1.25  # tokens padded to what the chip multiplies, and AdamW
    assert found["versions"]["libtpu"]
    assert f"| smoke drop_path_rate=0.1 | {topology} | {64 // chips} |" in printed


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None,
    reason="JAX's CUDA plug-in is not installed: pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt",
)
@pytest.mark.tpu_compile
def test_a_small_mixer_compiles_for_gpus(tmp_path):
    (found,), _ = compiled(tmp_path / "report.json", "smoke", "--topology", "h100-8")
    assert (found["chips"], found["device_kind"], found["fits"]) == (8, "NVIDIA H100 80GB HBM3", True)
    assert found["all_reduces"] >= 1
    assert found["all_gathers"] == 0
