"""Models for other runtimes: SavedModel, TFLite, ONNX, OpenVINO, and a page for browsers."""
