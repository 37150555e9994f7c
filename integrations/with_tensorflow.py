"""TensorFlow: a Keras network that the package ships, of random weights, compressed inside ``ct.convert``."""

import tempfile
from pathlib import Path

import coremltools as ct
import tensorflow as tf
from common import Table, saved

import milpasses as mp

RECIPES = ("int8", "pal4-g16", "sparse50+pal4")


def network() -> tf.keras.Model:
    """MobileNetV2 whose batch normalization has seen noise.

    As initialized its activations fade away, and the outputs are equal whatever the weights.
    """
    tf.keras.utils.set_random_seed(0)
    made = tf.keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), weights=None, classes=100, classifier_activation=None
    )
    for layer in made.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(12):
        made(tf.random.normal((8, 96, 96, 3)), training=True)
    return made


def main() -> None:
    """Convert with each recipe, print the table."""
    model_of_keras = network()
    table = Table(("tensorflow",))
    with tempfile.TemporaryDirectory() as folder:
        kept: dict[str, Path] = {}
        for recipe in ("", *RECIPES):
            options = {"pass_pipeline": mp.pipeline(recipe)} if recipe else {}
            model = ct.convert(
                model_of_keras,
                source="tensorflow",
                convert_to="mlprogram",
                inputs=[ct.TensorType(shape=(1, 96, 96, 3))],
                minimum_deployment_target=ct.target.iOS18,
                skip_model_load=True,
                **options,
            )
            kept[recipe] = saved(model, Path(folder) / f"net-{recipe}.mlpackage")
        for recipe in RECIPES:
            table.add("keras MobileNetV2", recipe, kept[""], kept[recipe])
    table.show()


if __name__ == "__main__":
    main()
