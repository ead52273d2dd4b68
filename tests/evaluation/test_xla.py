import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.evaluation import xla
from keras_mixer.evaluation.outputs import outputs_of
from keras_mixer.features import feature_extractor

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
NEWER = (["X86_V3"], ["X86_V3", "X86_V4"])  # as NumPy 2.4 names them
OLDER = (["AVX2", "FMA3"], ["AVX2", "AVX512F"])


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX always compiles")
@pytest.mark.parametrize(("avx2", "avx_512"), [NEWER, OLDER])
def test_xla_is_for_processors_without_avx_512(avx2, avx_512, tiny_mixer, monkeypatch):
    def answer(found, **options):
        monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"found": found}})
        return xla.xla_predicts_faster(tiny_mixer(num_blocks=1, **options))

    assert answer(avx2)
    assert not answer(avx_512)
    assert not answer(["ASIMDHP"])  # ARM: not measured
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert not answer(avx2)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX always compiles")
def test_outputs_by_xla_are_those_of_the_model_which_stays_as_it_is(tiny_mixer, monkeypatch, rng):
    model = feature_extractor(tiny_mixer(num_blocks=1), ["block_0", "pre_logits"])
    images = rng.integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    batches = [(images[:3], np.arange(3)), (images[3:], np.arange(2))]
    plain = list(outputs_of(model, batches, "test"))
    monkeypatch.setattr(xla, "xla_predicts_faster", lambda model: True)
    monkeypatch.setattr(model, "predict_on_batch", None)
    compiled = list(outputs_of(model, batches, "test"))
    assert not model.jit_compile
    for (expected, _), (found, _) in zip(plain, compiled, strict=True):
        assert {name: value.shape for name, value in found.items()} == {k: v.shape for k, v in expected.items()}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tf.distribute")
def test_several_replicas_do_not_use_xla(tiny_mixer, monkeypatch, rng):
    monkeypatch.setattr(xla, "xla_predicts_faster", lambda model: True)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = tiny_mixer(num_blocks=1)
    images = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.float32)
    ((found, _),) = outputs_of(model, [(images, np.arange(3))], "test")
    np.testing.assert_allclose(found, model(images), atol=1e-6)
