"""What a weight's new values do to the outputs of the ops that use it, from statistics of their inputs."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.calibration.matrices import layout_of
from milpasses.calibration.outputs import Loss
from milpasses.data.moments import Moments, Statistics
from milpasses.errors import MilpassesError
from milpasses.program.weights import Weight

Array = NDArray[Any]


@attrs.frozen(eq=False)
class LayerOutputError:
    """Measures the error of a weight in the outputs of the ops that use it: noise energy / signal energy.

    ``basis`` says what that is known from: ``statistics`` (of the input, in the samples held out where some
    were), ``lookups`` (how often gather read each slice; half of the weight goes to slices at large, which
    other data may read), or ``weight`` where nothing is known of the input: then it is the weight's own
    error, sum dw^2 / sum w^2.
    """

    weight: Weight
    value: Array
    moments: Moments | None
    reads: Array | None
    signals: tuple[float, ...]

    @classmethod
    def of(cls, weight: Weight, value: Array, statistics: Statistics | None) -> "LayerOutputError":
        """For ``weight`` and its values; raises ``MilpassesError`` if the statistics do not fit its shape."""
        moments = None
        if statistics is not None:  # what suits the samples that it was fitted to may suit no others
            moments = statistics.held_out.get(weight.name) or statistics.weights.get(weight.name)
        counts = None if statistics is None else statistics.lookups.get(weight.name)
        reads = None
        if counts is not None and counts.sum() > 0:
            axis = 0 if statistics is None else statistics.lookup_axes.get(weight.name, 0)
            if axis >= value.ndim or value.shape[axis] != counts.size:
                raise MilpassesError(
                    f"{weight.name}: these statistics are of a table of {counts.size} slices, the weight has "
                    f"shape {'x'.join(map(str, weight.shape))}: they belong to another model"
                )
            shape = [1] * value.ndim
            shape[axis] = counts.size
            reads = ((counts / counts.sum() + 1 / counts.size) / 2).reshape(shape)
        for known in (cls(weight, value, moments, reads, ()), cls(weight, value, None, None, ())):
            signals = known._energies()
            if all(signals):
                break  # else the input was always zero: the weight's own error remains
        return attrs.evolve(known, signals=signals)

    @property
    def basis(self) -> str:
        """What the error is known from."""
        if self.moments is not None:
            return "statistics"
        return "weight" if self.reads is None else "lookups"

    def relative(self, decoded: Array) -> float:
        """Noise energy / signal energy of the outputs, over all kinds of use; 0 where nothing changed."""
        noises = self._energies(decoded)
        return sum(n / s if s else float(n > 0) for n, s in zip(noises, self.signals, strict=True))

    def _energies(self, decoded: Array | None = None) -> tuple[float, ...]:
        """The energy of each kind of output that the weight makes, or its error if ``decoded`` is given."""
        energies: list[float] = []
        if self.moments is not None:
            layout = layout_of(self.weight, self.moments)
            other = None if decoded is None else layout.split(decoded)
            energies.append(Loss.of(layout.split(self.value), self.moments, other).error)
        if self.reads is not None:
            axes = tuple(axis for axis, size in enumerate(self.reads.shape) if size == 1)
            values = self.value.astype(np.float32)
            values = values if decoded is None else values - decoded
            squares = np.einsum("ij,ij->i", *[_flat(values, axes)] * 2)
            energies.append(float(squares @ self.reads.reshape(-1)))
        if not energies:
            from milpasses_kernels.decode import error_sums

            signal, noise, _ = error_sums(self.value, self.value if decoded is None else decoded)
            energies.append(signal if decoded is None else noise)
        return tuple(energies)


def _flat(values: Array, axes: tuple[int, ...]) -> Array:
    """The values as [slices, elements]."""
    kept = next(axis for axis in range(values.ndim) if axis not in axes)
    return np.moveaxis(values, kept, 0).reshape(values.shape[kept], -1)
