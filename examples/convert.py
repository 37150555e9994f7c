"""Compress while converting.

One argument of ``ct.convert`` more. The network is small, trained, and built as a MIL program; a traced
PyTorch module goes in the same way.
"""

from _networks import digits_accuracy
from milpasses_tools import digits

import milpasses as mp

plain = digits.convert()
pipeline = mp.pipeline("pal4-g16")
small = digits.convert(pass_pipeline=pipeline)  # ct.convert(..., pass_pipeline=pipeline)

report = pipeline.report
print(report)
before, after = digits_accuracy(plain), digits_accuracy(small)
print(f"{report.bytes_before:,} -> {report.bytes_after:,} bytes; accuracy {before:.1%} -> {after:.1%}")
assert report.bytes_after < 0.3 * report.bytes_before
assert after > before - 0.01
