"""TensorFlow: a Keras network converts with a recipe; runs where tensorflow is (``make test-tensorflow``)."""

from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

import milpasses as mp
from milpasses.interpreter import Interpreter

tf = pytest.importorskip("tensorflow")


@pytest.mark.parametrize(("recipe", "form"), [("int8", "int8 per_channel"), ("pal4-g16", None)])
def test_a_keras_network_is_compressed_while_it_converts(recipe: str, form: str, tmp_path: Path) -> None:
    tf.keras.utils.set_random_seed(0)
    network = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(32, 3, activation="relu", input_shape=(16, 16, 3)),
            tf.keras.layers.Conv2D(64, 3, strides=2, activation="relu"),
            tf.keras.layers.GlobalAveragePooling2D(),
            tf.keras.layers.Dense(64),
        ]
    )
    pipeline = mp.pipeline(recipe)
    model = ct.convert(
        network,
        source="tensorflow",
        convert_to="mlprogram",
        inputs=[ct.TensorType(name=network.inputs[0].name.partition(":")[0], shape=(1, 16, 16, 3))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        pass_pipeline=pipeline,
    )
    assert pipeline.report.count("compressed") == 2  # the second convolution, the dense layer
    if form is not None:
        assert {record.form for record in pipeline.report if record.status == "compressed"} == {form}
    path = tmp_path / "small.mlpackage"
    model.save(str(path))
    image = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    runner = Interpreter(path)
    (name,) = runner.inputs
    (found,) = runner.run({name: image}).values()
    wanted = network(image).numpy()
    assert np.linalg.norm(found - wanted) < 0.25 * np.linalg.norm(wanted)
