"""Run a network before and after quantization: how far do its outputs agree?"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from milpasses.report import decibels


def output_agreement(before: Any, after: Any, samples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Signal-to-noise ratio in decibels of each output over all ``samples``, infinite where nothing differs.

    ``before`` and ``after`` are specifications; ``samples`` are inputs by name. Both run in the interpreter.
    Class labels are left out: their probabilities tell. Raises ``MilpassesError`` where a layer cannot be
    read, or an input is missing.
    """
    from milpasses.interpreter import Interpreter

    runners = [Interpreter(spec) for spec in (before, after)]
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for sample in samples:
        wanted, got = (runner.run(dict(sample)) for runner in runners)
        for name, value in wanted.items():
            first, second = _numbers(value), _numbers(got[name])
            if first is None or second is None:
                continue
            signal[name] = signal.get(name, 0.0) + float(np.sum(first**2))
            noise[name] = noise.get(name, 0.0) + float(np.sum((first - second) ** 2))
    return {name: decibels(signal[name], noise[name]) for name in signal}


def _numbers(value: Any) -> Any:
    """An output as one vector of numbers; None for a class label, which its probabilities tell."""
    if isinstance(value, Mapping):
        return np.array([value[label] for label in sorted(value, key=str)], np.float64)
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).reshape(-1)
    return None
