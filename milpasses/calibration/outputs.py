"""What a weight's change does to the outputs of its op, and the bias that takes up part of that."""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.calibration.matrices import layout_of
from milpasses.calibration.sources import Inputs
from milpasses.data.moments import Moments
from milpasses.program.weights import Consumer, Weight

Array = NDArray[Any]


def output_error(
    value: Array, decoded: Array, moments: Moments, consumer: Consumer, name: str = "weight"
) -> float:
    """Mean squared change of an op's output, summed over its channels: E|dW x|^2 = tr(dW H dW').

    ``value`` and ``decoded``: the weight before and after, float16 or float32, shaped alike. ``moments``: of
    the input of ``consumer``, which uses the weight; without its ``gram`` H = diag(variance) + mean mean':
    inputs count as uncorrelated but for their means. Raises ``MilpassesError`` where the moments are not this
    weight's, ``name``.
    """
    matrices = difference(value, decoded, moments, consumer, name)
    return Loss.of(matrices, moments).error


def difference(
    value: Array, decoded: Array, moments: Moments, consumer: Consumer, name: str = "weight"
) -> Array:
    """dW = W - W' as the matrices that the inputs meet, float32 (groups, outputs, inputs).

    Arguments and errors as ``output_error``'s.
    """
    layout = layout_of(Weight(name, value.shape, value.dtype.name, (consumer,)), moments)
    return layout.split(value.astype(np.float32) - decoded.astype(np.float32))


@attrs.frozen(eq=False)
class Loss:
    """What the outputs lose by dW: ``mean``, dW E[x] (groups x outputs), and E|dW (x - E[x])|^2 around it."""

    mean: Array
    spread: float

    @classmethod
    def of(cls, matrices: Array, moments: Moments, decoded: Array | None = None) -> "Loss":
        """From ``difference``, or the weight and what it decodes to as matrices, and the inputs' moments."""
        from milpasses_kernels.gptq import output_error as moment_error
        from milpasses_kernels.outputs import output_loss

        mean = moments.mean
        variance = np.maximum(moments.second_moment - mean**2, 0)
        spread, lost = output_loss(matrices, variance, mean, decoded)
        if moments.gram is not None:
            change = matrices if decoded is None else matrices.astype(np.float32) - decoded
            parts = zip(change, moments.gram, moments.sum, mean, strict=True)
            total = sum(moment_error(*part) for part in parts)
            spread = max(total, 0.0) / moments.rows
        return cls(lost.reshape(-1), spread)

    @property
    def error(self) -> float:
        """E|dW x|^2, summed over the outputs."""
        return self.spread + float(self.mean @ self.mean)


def mean_loss(matrices: Array, moments: Moments) -> Array:
    """dW E[x]: what each output loses on average, float64 (groups x outputs)."""
    from milpasses_kernels.outputs import output_loss

    return output_loss(matrices, np.zeros_like(moments.sum), moments.mean)[1].reshape(-1)


@attrs.frozen(eq=False)
class Correction:
    """A bias that makes up for ``dW E[x]``, and the output error that remains on the validation inputs."""

    bias: Array
    error: float


def correct(bias: Array, matrices: Array, loss: Loss, inputs: Inputs) -> Correction | None:
    """The bias b' = b + dW E[x], in its own type, float16 or float32; E[x] of the inputs to fit to.

    ``loss``: of the inputs to validate with, where E|dW (x - E[x])|^2 + |dW E[x] - (b' - b)|^2 remains. Where
    nothing was held out, b' suits these inputs better than others: the first term then counts
    (n + 1) / (n - 1) times, as when the mean of n rows meets another row. None where the bias would stay as
    it is, or overflow, or all that is known is one row. The method: bias correction, Nagel et al.,
    Data-Free Quantization, 2019, from data.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        moved = (bias.astype(np.float64) + mean_loss(matrices, inputs.fit)).astype(bias.dtype)
    if not np.isfinite(moved).all() or np.array_equal(moved, bias):
        return None
    spread, rows = loss.spread, inputs.fit.rows
    if inputs.held_out is None:
        if rows == 1:
            return None
        spread *= (rows + 1) / (rows - 1)
    remains = loss.mean - (moved.astype(np.float64) - bias.astype(np.float64))
    return Correction(moved, spread + float(remains @ remains))
