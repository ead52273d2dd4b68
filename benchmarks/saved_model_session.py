"""A SavedModel in a session, as TensorFlow Serving runs it."""


def session_of(path):
    """A function `(B, H, W, 3) -> (B, classes)` that runs the only version in the folder of an export."""
    import tensorflow as tf

    (version,) = path.iterdir()
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
    signature = loaded.signature_def["serving_default"]
    output, image = signature.outputs["probabilities"].name, signature.inputs["image"].name
    return session.make_callable(output, feed_list=[image])
