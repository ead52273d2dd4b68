import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.evaluation import xla
from keras_mixer.evaluation.outputs import outputs_of
from keras_mixer.features import feature_extractor

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX always compiles")
NEWER = (["X86_V3"], ["X86_V3", "X86_V4"])  # as NumPy 2.4 names them
OLDER = (["AVX2", "FMA3"], ["AVX2", "AVX512F"])


@pytest.mark.parametrize(("avx2", "avx_512"), [NEWER, OLDER])
def test_size_precision_and_processor_decide(avx2, avx_512, tiny_mixer, monkeypatch):
    def answer(found, model=None):
        monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"found": found}})
        return xla.xla_predicts_faster(model or tiny_mixer(num_blocks=1))

    assert answer(avx2)
    assert answer(avx_512)
    assert not answer(["ASIMDHP"])  # ARM: not measured
    monkeypatch.setattr(xla, "SMALL", 1)
    assert answer(avx2)
    assert not answer(avx_512)
    assert not answer(avx2, keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert not answer(avx2)
    finally:
        keras.config.set_dtype_policy("float32")


def test_outputs_by_xla_are_those_of_the_model_which_stays_as_it_is(tiny_mixer, monkeypatch, rng):
    model = feature_extractor(tiny_mixer(num_blocks=1), ["block_0", "pre_logits"])
    images = rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    batches = [(images, np.arange(3))] * 3 + [(images[:2], np.arange(2))]
    expected = model(images.astype(np.float32))
    monkeypatch.setattr(xla, "xla_predicts_faster", lambda model: True)
    monkeypatch.setattr(xla, "FIRST_BATCHES", 1)
    plain, sizes = model.predict_on_batch, []
    monkeypatch.setattr(model, "predict_on_batch", lambda images: sizes.append(len(images)) or plain(images))
    found = [outputs for outputs, _ in outputs_of(model, batches, "test")]
    assert sizes == [3, 2]  # the first batch, and one of another size
    assert not model.jit_compile
    for outputs in found:
        for name, value in outputs.items():
            np.testing.assert_allclose(value, expected[name][: len(value)], atol=1e-5)


def test_replicas_use_the_function_of_keras(tiny_mixer, monkeypatch):
    monkeypatch.setattr(xla, "xla_predicts_faster", lambda model: True)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = tiny_mixer(num_blocks=1)
    assert xla.prediction_function(model) == model.predict_on_batch
