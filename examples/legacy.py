"""A legacy neural network.

The digits network as an old ``.mlmodel``: quantized in place, and upgraded to an ML Program with a table
for each 16 channels.
"""

import tempfile
from pathlib import Path

import coremltools as ct
from _networks import digits_accuracy, digits_data
from milpasses_tools import compare, digits

from milpasses.neuralnetwork import quantize_weights, upgrade

with tempfile.TemporaryDirectory() as folder:
    old = Path(folder) / "old.mlmodel"
    ct.convert(digits.program(ct.target.iOS13), convert_to="neuralnetwork").save(str(old))

    small = quantize_weights(old, 4, "kmeans_lut", output=Path(folder) / "old4.mlmodel")
    print(small.report)

    upgraded = upgrade(old, "pal4-g16", output=Path(folder) / "new.mlpackage")
    print(upgraded.report)

    found = compare(old, Path(folder) / "new.mlpackage", digits_data(0, 60))
    print(f"outputs {found['scores'].snr_db:.1f} dB")
    assert found["scores"].agreement > 0.97
    assert digits_accuracy(Path(folder) / "new.mlpackage") > 0.95
