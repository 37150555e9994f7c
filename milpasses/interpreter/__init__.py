"""Run a MIL program on any machine: a reference interpreter, not an emulation of Core ML.

Every op computes in float32 and its result is rounded once to the type that MIL declares for it. NumPy alone
runs everything; where torch is installed the heavy ops (convolution, pooling, matrix products) use it.

Beyond ``Interpreter.run`` there are these seams, for what measures, compares or changes a model:

* ``run(..., observers=[...])``: see each op's inputs and outputs as it runs;
* ``override``: other values for constants and compressed weights;
* ``alter``: other values where an op takes what was computed, as in reduced precision;
* ``record`` and ``resume``: keep what the ops gave, and run again from any op on;
* ``operations``, ``first_reader``, ``output_ops``, ``function``: what there is to run, from which op on a
  changed weight matters, which op makes an output, and coremltools' own function.

>>> interpreter = Interpreter("model.mlpackage")
>>> outputs, snapshot = interpreter.record(inputs)
>>> interpreter.override({"conv_1_weight": weight * 0.9})
>>> changed = interpreter.resume(snapshot, interpreter.first_reader(["conv_1_weight"]))
"""

from milpasses.interpreter.engine import Interpreter, Observer, Precision
from milpasses.interpreter.io import Feature, State
from milpasses.interpreter.pipeline import PartRun, PipelineInterpreter
from milpasses.interpreter.registry import InterpreterError, supported_ops
from milpasses.interpreter.snapshots import Snapshot
from milpasses.program.protocol import register_runner

__all__ = [
    "Feature",
    "Interpreter",
    "InterpreterError",
    "Observer",
    "PartRun",
    "PipelineInterpreter",
    "Precision",
    "Snapshot",
    "State",
    "supported_ops",
]

register_runner(Interpreter)
