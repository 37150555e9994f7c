"""What a weight's new values do to the outputs of the ops that use it, from statistics of their inputs."""

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses._moments import Moments, Statistics
from milpasses.calibration import damage
from milpasses.calibration.matrices import layout_of
from milpasses.errors import MilpassesError
from milpasses.weights import Weight

Array = NDArray[Any]
_CHUNK = 1 << 20  # elements at a time, so that float64 copies stay small beside the model


def output_energy(values: Array, weight: Weight, moments: Moments) -> float:
    """tr(V H V^T): the energy of what an op gives for each row of its input, from ``values`` of ``weight``.

    ``values``: of the weight's shape, the weight itself or an error of it. H = E[x x^T] is ``moments.gram``
    where it was kept; else it is taken to be diag(variance) + mean mean^T: the columns uncorrelated but for
    their means, which after a ReLU are most of it. Raises ``MilpassesError`` if the moments are of a weight
    of another shape.
    """
    if moments.gram is not None:
        use = next(use for use in weight.consumers if use.op_type != "gather")
        return damage(values, np.zeros_like(values), moments, use, weight.name)
    total = 0.0
    mean = moments.mean
    variance = np.maximum(moments.second_moment - mean**2, 0)
    for groups, block in _blocks(layout_of(weight, moments).split(values)):
        total += float(np.einsum("gok,gok,gk->", block, block, variance[groups]))
        total += float(np.sum((block @ mean[groups, :, None]) ** 2))
    return total


def _blocks(rows: Array) -> Iterator[tuple[slice, Array]]:
    """Parts of [groups, outputs, width], in float64, and which groups they are of."""
    groups, outputs, width = rows.shape
    several = max(1, _CHUNK // max(1, outputs * width))
    step = outputs if several > 1 else max(1, _CHUNK // max(1, width))
    for group in range(0, groups, several):
        here = slice(group, group + several)
        for at in range(0, outputs, step):
            yield here, rows[here, at : at + step].astype(np.float64)


@attrs.frozen(eq=False)
class Meter:
    """Measures how much of its ops' outputs a weight's error is: noise energy / signal energy.

    ``basis`` says what that is known from: ``statistics`` (of the input), ``lookups`` (how often gather read
    each slice; half of the weight goes to slices at large, which other data may read), or ``weight`` where
    nothing is known of the input: then it is the weight's own error, sum dw^2 / sum w^2.
    """

    weight: Weight
    value: Array
    moments: Moments | None
    reads: Array | None
    signals: tuple[float, ...]

    @classmethod
    def of(cls, weight: Weight, value: Array, statistics: Statistics | None) -> "Meter":
        """For ``weight`` and its values; raises ``MilpassesError`` if the statistics do not fit its shape."""
        moments = None if statistics is None else statistics.weights.get(weight.name)
        counts = None if statistics is None else statistics.lookups.get(weight.name)
        reads = None
        if counts is not None and counts.sum() > 0:
            if counts.size not in value.shape:
                raise MilpassesError(
                    f"{weight.name}: these statistics are of a table of {counts.size} slices, the weight has "
                    f"shape {'x'.join(map(str, weight.shape))}: they belong to another model"
                )
            shape = [1] * value.ndim
            shape[value.shape.index(counts.size)] = counts.size
            reads = ((counts / counts.sum() + 1 / counts.size) / 2).reshape(shape)
        for known in (cls(weight, value, moments, reads, ()), cls(weight, value, None, None, ())):
            signals = known._energies(value)
            if all(signals):
                break  # else the input was always zero: the weight's own error remains
        return attrs.evolve(known, signals=signals)

    @property
    def basis(self) -> str:
        """What the damage is known from."""
        if self.moments is not None:
            return "statistics"
        return "weight" if self.reads is None else "lookups"

    def share(self, decoded: Array) -> float:
        """Noise energy / signal energy of the outputs, over all kinds of use; 0 where nothing changed."""
        noises = self._energies(np.asarray(decoded, np.float32) - np.asarray(self.value, np.float32))
        return sum(n / s if s else float(n > 0) for n, s in zip(noises, self.signals, strict=True))

    def _energies(self, values: Array) -> tuple[float, ...]:
        found: list[float] = []
        if self.moments is not None:
            found.append(output_energy(values, self.weight, self.moments))
        if self.reads is not None:
            axes = tuple(axis for axis, size in enumerate(self.reads.shape) if size == 1)
            squares = np.einsum("ij,ij->i", *[_flat(values, axes)] * 2)
            found.append(float(squares @ self.reads.reshape(-1)))
        if not found:
            flat = np.asarray(values, np.float32).reshape(-1)
            found.append(float(np.einsum("i,i->", flat, flat, dtype=np.float64)))
        return tuple(found)


def _flat(values: Array, axes: tuple[int, ...]) -> Array:
    """The values as [slices, elements]."""
    kept = next(axis for axis in range(values.ndim) if axis not in axes)
    return np.moveaxis(np.asarray(values, np.float32), kept, 0).reshape(values.shape[kept], -1)
