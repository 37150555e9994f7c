"""Run a MIL program on any machine: a reference interpreter, not an emulation of Core ML.

Every op computes in float32 and its result is rounded once to the type that MIL declares for it. NumPy alone
runs everything; where torch is installed the heavy ops (convolution, pooling, matrix products) use it.
"""

from milpasses.interpreter.engine import Interpreter, Observer
from milpasses.interpreter.io import Feature, State
from milpasses.interpreter.registry import InterpreterError, supported_ops
from milpasses.program.protocol import register_runner

__all__ = ["Feature", "Interpreter", "InterpreterError", "Observer", "State", "supported_ops"]

register_runner(Interpreter)
