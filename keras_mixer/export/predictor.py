"""A loaded model, ready for use: pixels in [0, 255] in, probabilities or features out."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from keras_mixer.anatomy import PIXELS, anatomy
from keras_mixer.data.decode import evaluation_image
from keras_mixer.data.image_files import read_image
from keras_mixer.data.pixel_range import PixelRange
from keras_mixer.data.settings import EVALUATION_CROPS
from keras_mixer.description import Description, completed, describe, in_precision


class Unsupported(ValueError):
    """The kind of model, or this machine without an optional package, does not allow an export or its use."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of one image, from a model in memory or from a server.

    Attributes:
        image: its path.
        labels: class names, best first.
        probabilities: of these, each in [0, 1].
    """

    image: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A Keras model or an export, with everything needed to use it.

    Attributes:
        runtime: the software that runs it.
        description: of its input and output; pixels are in [0, 255], the output is probabilities or features.
        run: `(B, H, W, channels) in [0, 255] -> (B, n) float32`, for any B.
        other_inputs: other signatures by name: `image_uint8` takes the images as uint8, `image_bytes` encoded.
        model: the Keras model behind it, in float32 and with preprocessing and activation; None for an export.
    """

    runtime: str
    description: Description
    run: Callable[[np.ndarray], np.ndarray]
    other_inputs: Mapping[str, Callable[[np.ndarray], np.ndarray]] = dataclasses.field(default_factory=dict)
    model: keras.Model | None = None

    @classmethod
    def of(cls, model, class_names=None, evaluation_crop=None, classifier_activation=None) -> "Predictor":
        """Prepares a Mixer for use; arguments and errors are those of `describe`.

        If the model lacks preprocessing or the activation after the logits, they are added to a copy. Mixed precision
        becomes float32.
        """
        described = describe(model, class_names, evaluation_crop, classifier_activation)
        if described.evaluation_crop not in EVALUATION_CROPS:
            valid = ", ".join(EVALUATION_CROPS)
            raise ValueError(f"Unknown evaluation crop {described.evaluation_crop!r}. Use one of: {valid}.")
        ready = completed(
            in_precision(model, "float32"), described.activation if described.output == "logits" else None
        )
        output = described.output if described.output == "features" else "probabilities"
        described = dataclasses.replace(described, pixel_range=PIXELS, output=output)
        return cls(f"Keras on {keras.backend.backend()}", described, ready.predict_on_batch, model=ready)

    def for_classes(self, purpose) -> "Predictor":
        """The same predictor.

        Raises:
            Unsupported: the model has no head, and so no classes for the purpose (such as "to predict").
        """
        if self.description.output == "features":
            raise Unsupported(
                f"A model without a head has no classes {purpose}. Build it with include_top=True and train its head; "
                "export_saved_model and `keras-mixer features` write its features."
            )
        return self

    def for_conversion(self, purpose) -> "Predictor":
        """The same predictor, if a converter can read its model.

        Raises:
            Unsupported: as `for_classes`, or Keras has quantized the model: converters have no such layers.
        """
        if (quantized := anatomy(self.model).quantized) is not None:
            raise Unsupported(
                f"Keras has quantized the layer {quantized}, which only a SavedModel can carry. Export the model from "
                "before: TFLite files have a quantization of their own."
            )
        return self.for_classes(purpose)

    def classify(self, images) -> np.ndarray:
        """`(B, H, W, channels) in [0, 255] -> (B, classes) float32`: probabilities.

        Warns if the pixels cannot be in [0, 255].

        Raises:
            ValueError: the images have another shape, or the model has no head.
        """
        images, shape = np.asarray(images), self.description.input_shape
        if images.shape[1:] != shape:  # TFLite would resize its input, and might answer
            raise ValueError(f"Expected images (B, {', '.join(map(str, shape))}), got {images.shape}.")
        pixels = PixelRange()
        pixels.add(images)
        pixels.warn(self.description.pixel_range)
        return np.asarray(self.for_classes("to predict").run(images.astype(np.float32)))

    def probabilities(self, path) -> np.ndarray:
        """`(classes,) float32` for one image file.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: it cannot be decoded, or the model has no head.
        """
        return self.classify(self.pixels(path)[None])[0]

    def pixels(self, path) -> np.ndarray:
        """`(H, W, 3) uint8`: an image file, decoded, turned and cropped for this model; raises as `probabilities`."""
        size, crop = self.description.input_shape[:2], self.description.evaluation_crop
        return np.asarray(read_image(path, lambda example: evaluation_image(example, size, crop), crop))

    def predict_files(self, paths, top_k=5) -> list[Prediction | Exception]:
        """`predict` of each image file, or the error it raises."""

        def answer(path):
            try:
                return self.predict(path, top_k)
            except (ValueError, OSError) as error:
                return error

        return [answer(path) for path in paths]

    def predict(self, path, top_k=5) -> Prediction:
        """The `top_k` most probable classes of one image file; raises as `probabilities`."""
        probabilities = self.probabilities(path)
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        names = self.description.class_names
        return Prediction(str(path), tuple(names[i] for i in best), tuple(float(probabilities[i]) for i in best))
