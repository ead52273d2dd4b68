"""Steps compiled for TPUs that are not there, and that they are the steps that `fit` runs."""

import dataclasses
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


@pytest.mark.parametrize("true", [0, 1, 17, 100, 1000])
def test_the_largest_batch_is_found_to_an_eighth_in_few_compilations(true):
    tried, unit = [], 8

    def compile_batch(batch):
        assert batch % unit == 0
        tried.append(batch)
        gib = min(15.9, batch / unit / 10)  # XLA adapts near the limit
        sizes = {"hbm_bytes": gib * 2**30, "hbm_limit_bytes": 16 * 2**30, "argument_bytes": 0, "code_bytes": 0}
        return sizes | {"global_batch_size": batch, "fits": batch <= true * unit}

    largest = tpu_compile.search_largest_batch(compile_batch, unit, 512)
    assert len(tried) == len(set(tried)) <= 14
    found = largest["global_batch_size"] if largest else 0
    assert true * 7 // 8 * unit <= found <= true * unit
    assert any(found < batch for batch in tried)


def test_what_cannot_be_compiled_is_told_with_the_remedy():
    with pytest.raises(ValueError, match="tokens_mlp_dim=N"):
        tpu_compile.without_weights(resolve("finetune", image_size=448))
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, temporaries (23.46G) exceed available HBM (15.75G)."
    assert tpu_compile.is_out_of_memory(RuntimeError(message))
    assert not tpu_compile.is_out_of_memory(RuntimeError("INTERNAL: something else"))


def without_device(text):
    """Without the notes that arguments are on one device: shapes name it, arrays on the only device do not."""
    text = re.sub(r".*@empty_mesh = .*\n", "", text)
    text = re.sub(r"sdy\.sharding = #sdy\.sharding<@empty_mesh, \[[{}, ]*\]>(, )?", "", text)
    return text.replace(" {}", "")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="lowers on the JAX backend only")
@pytest.mark.backends
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (1, {"sam_rho": 0.1, "drop_path_rate": 0.1}),
        (4, {"accumulation_steps": 2, "ema_momentum": 0.9, "drop_path_rate": 0.1, "precision": "mixed_bfloat16"}),
    ],
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


@pytest.mark.tpu_compile
@pytest.mark.parametrize(
    ("topology", "needs", "chips", "device_kind"),
    [
        ("v5e-1", "libtpu", 1, "TPU v5 lite"),
        ("v5e-8", "libtpu", 8, "TPU v5 lite"),
        ("h100-8", "jax_plugins", 8, "NVIDIA H100 80GB HBM3"),
    ],
)
def test_a_small_mixer_compiles_with_one_reduction_and_its_state_donated(tmp_path, topology, needs, chips, device_kind):
    pytest.importorskip(needs, reason="pip install 'keras-mixer[tpu-compile]', or JAX's CUDA plug-in")
    arguments = ["smoke", "drop_path_rate=0.1", "--topology", topology, "--output", tmp_path / "report.json"]
    command = [sys.executable, tpu_compile.__file__, *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (found,) = json.loads((tmp_path / "report.json").read_text())
    assert (found["chips"], found["device_kind"], found["fits"]) == (chips, device_kind, True)
    assert (found["all_reduces"] > 0, found["all_gathers"]) == (chips > 1, 0)
    assert f"| smoke drop_path_rate=0.1 | {topology} | {64 // chips} |" in run.stdout
    if needs == "libtpu":
        assert found["all_reduces"] <= 1
        assert found["alias_bytes"] > 0.99 * found["output_bytes"]
        assert 1 < found["flops"] / found["model_flops"] < 1.25  # tokens padded for the chip, and AdamW
