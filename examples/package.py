"""Compress a package, with rules for some weights.

The stem at 8 bits, the last layer as it is, all else in 3 bits. The saved model still knows what was done
to it.
"""

import tempfile
from pathlib import Path

from _networks import digits_model
from milpasses_tools import explain

import milpasses as mp

with tempfile.TemporaryDirectory() as folder:
    model, output = digits_model(Path(folder)), Path(folder) / "small.mlpackage"
    recipe = mp.Recipe(
        default="pal3",
        rules=[
            mp.Rule(op_name="stem*", min_elements=0, scheme=mp.Quantize(dtype="int8")),
            mp.Rule(op_name="scores*", scheme=mp.Keep()),
        ],
    )
    small = mp.compress(model, recipe, output=output)
    for record in small.report:
        print(f"{record.name:32} {record.status:10} {record.form:16} {record.reason}")
    forms = {weight.name: weight.form for weight in explain(output).weights}
    assert forms["const_0_to_fp16"] == "int8 per_channel"
    assert forms["hidden_weight_to_fp16"] == "lut3 per_tensor"

    assert mp.compress(output, recipe).report.count("compressed") == 0  # a second run changes nothing
