"""8-bit activations, off a Mac.

Integers for weights and for what flows between ops. Ranges come from all samples. Leaving one op float is a
rule.
"""

from _networks import digits_accuracy, digits_data
from milpasses_tools import digits

import milpasses as mp

model, data = digits.convert(), digits_data(0, 64)
small = mp.compress(model, "int8+a8", calibration=data)
for record in small.report.activations:
    print(record.name, record.status)
partly = mp.compress(model, "int8+a8; op_type=linear -> a8=keep", calibration=data)

quantized = [sum(r.status == "quantized" for r in one.report.activations) for one in (small, partly)]
print(f"{quantized[0]} activations in 8 bits; without those of linear {quantized[1]}")
assert quantized[0] > quantized[1] > 0

before, after = digits_accuracy(model), digits_accuracy(small)
print(f"accuracy {before:.1%} -> {after:.1%}")
assert after > before - 0.02
