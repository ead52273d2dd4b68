"""Warm-up requests: TensorFlow Serving runs them before a version takes traffic, so that no client waits.

The file is a TFRecord of `tensorflow.serving.PredictionLog` messages. They are encoded by hand because the package with
their Python classes, tensorflow-serving-api, would install a second TensorFlow.

Source: tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto; the field numbers are theirs.
"""

import tensorflow as tf

REQUESTS = "assets.extra/tf_serving_warmup_requests"  # where TensorFlow Serving expects them
PREDICT_LOG, REQUEST, MODEL_SPEC, INPUTS = 6, 1, 1, 2
NAME, SIGNATURE_NAME, KEY, VALUE = 1, 3, 1, 2


def write_warmup_requests(path, model_name, inputs):
    """Writes one request for each signature.

    Args:
        path: the file to write.
        model_name: the name of the model on the server.
        inputs: `{signature: {input: array}}`.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, arrays in inputs.items():
            spec = _field(NAME, model_name.encode()) + _field(SIGNATURE_NAME, signature.encode())
            request = _field(MODEL_SPEC, spec)
            for name, array in arrays.items():
                tensor = tf.make_tensor_proto(array).SerializeToString()
                request += _field(INPUTS, _field(KEY, name.encode()) + _field(VALUE, tensor))
            writer.write(_field(PREDICT_LOG, _field(REQUEST, request)))


def _field(number, content):
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
