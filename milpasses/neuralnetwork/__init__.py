"""Legacy Core ML neural networks (``.mlmodel``): read into MIL, upgraded, quantized in place.

>>> from milpasses.neuralnetwork import read
>>> reading = read("model.mlmodel")     # .program, .description, .notes
>>> from milpasses.neuralnetwork import upgrade
>>> program = upgrade("model.mlmodel", "pal4", output="model.mlpackage")     # .report, .notes
>>> from milpasses.neuralnetwork import quantize_weights
>>> small = quantize_weights("model.mlmodel", 4, "kmeans_lut", output="small.mlmodel")     # .report
"""

from milpasses.neuralnetwork.quantize.quantized_model import (
    QuantizedModel,
    quantize_variants,
    quantize_weights,
)
from milpasses.neuralnetwork.reader.model import Reading, read
from milpasses.neuralnetwork.reader.registry import supported_layers, unsupported_layers
from milpasses.neuralnetwork.spec.errors import LayerError, NeuralNetworkError
from milpasses.neuralnetwork.upgrading import UpgradedModel, upgrade

__all__ = [
    "LayerError",
    "NeuralNetworkError",
    "QuantizedModel",
    "Reading",
    "UpgradedModel",
    "quantize_variants",
    "quantize_weights",
    "read",
    "supported_layers",
    "unsupported_layers",
    "upgrade",
]
