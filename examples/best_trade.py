"""Find the recipe to take.

A sweep measures several on the same images, and takes the smallest that loses at most one point of
accuracy. The recipe that learns from data does so on images that nothing is measured on.
"""

import tempfile
from pathlib import Path

from _networks import digits_data, digits_model
from milpasses_tools import sweep

from milpasses.data.samples import Samples, model_inputs

with tempfile.TemporaryDirectory() as folder:
    model = digits_model(Path(folder))
    rows = digits_data(0, 120)
    data = Samples(lambda: rows, model_inputs(model), "handwritten digits", len(rows))
    found = sweep(model, Path(folder) / "sweep", ["int8", "pal4", "pal2", "pal2-gptq"], data, max_loss=1.0)
    for row in found.rows:
        print(f"{row['name']:12} {row['bytes']:>9,} bytes  accuracy {row['accuracy']['top1']:.3f}")
    assert found.choice is not None
    assert found.choice.chosen is not None
    print("take", found.choice.chosen)
    print(*found.choice.words, sep="\n")
    assert found[found.choice.chosen]["accuracy"]["top1"] >= found.rows[0]["accuracy"]["top1"] - 0.01
