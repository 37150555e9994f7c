"""Two bits, fitted to data.

The same form and the same bytes three times: k-means of the weights, weighted by what flows into each
layer, and with error feedback. Measured on images that nothing learned from.
"""

import numpy as np
from _networks import digits_data
from milpasses_tools import digits

import milpasses as mp
from milpasses.interpreter import Interpreter

model = digits.convert()
learned, measured = digits_data(0, 96), digits_data(200, 296)
statistics = mp.statistics(model, learned, full=True, held_out=24)


def scores(of: object) -> np.ndarray:
    interpreter = Interpreter(of)
    return np.concatenate([interpreter.run(sample.inputs)[digits.OUTPUT] for sample in measured])


expected, decibels = scores(model), {}
for name, data in {"pal2": None, "pal2, weighted": statistics, "pal2-gptq": statistics}.items():
    small = mp.compress(model, name.partition(",")[0], statistics=data)
    noise = expected - scores(small)
    decibels[name] = 10 * np.log10((expected**2).sum() / (noise**2).sum())
    print(f"{name:16} {small.report.bytes_after:,} bytes, outputs {decibels[name]:.1f} dB")

assert decibels["pal2-gptq"] > decibels["pal2"] + 3
