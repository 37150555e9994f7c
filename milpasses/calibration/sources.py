"""Where calibrated methods get a weight's statistics from: given, or computed as the weights are compressed.

What is fitted to the samples is checked on others: every fourth sample is held out, and of each weight's
possible encodings the one is kept whose outputs are nearest on those. With one sample, or statistics without
a held-out part, the same rows fit and check.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.calibration.matrices import layout_of
from milpasses.data.moments import Moments, Statistics
from milpasses.errors import MilpassesError
from milpasses.program.weights import Weight

Array = NDArray[Any]
HELD_OUT = 4  # every so many-th sample
WAVES = 8  # of sequential calibration
NORMS = "norms"  # instead of data: what the normalizations before weights tell
MEMORY = 1 << 31  # bytes of second moments at a time
_Progress = Callable[[int, int | None, str], None]


@attrs.frozen(eq=False)
class Inputs:
    """What flows into one weight: to fit to, and to check with (None: the same)."""

    fit: Moments
    check: Moments | None = None

    @property
    def judge(self) -> Moments:
        """The moments that decide between encodings."""
        return self.fit if self.check is None else self.check


class Source(Protocol):
    """Gives the statistics of one weight after another, in the order of the program."""

    def inputs(self, weight: Weight) -> Inputs | str:
        """What flows into ``weight``; where nothing is known, why."""
        ...

    def done(self, weight: Weight, decoded: Array) -> None:
        """``weight`` is compressed and decodes to ``decoded``, or is a bias that was corrected to that."""
        ...


def is_norms(given: Any) -> bool:
    """``NORMS`` stands where statistics or data could."""
    return isinstance(given, str) and given == NORMS


class Given:
    """Statistics that are there already: ``Statistics``, the file of some, or second moments by weight name.

    The last is a mapping to arrays: X'X, (K, K) or (groups, K, K), or its diagonal, (K,) or (groups, K); of
    any scale, K and the order of channels as in ``Moments``.
    """

    def __init__(self, statistics: Any) -> None:
        if isinstance(statistics, str | os.PathLike):
            statistics = Statistics.load(Path(statistics))
        if not isinstance(statistics, Statistics | Mapping):
            raise MilpassesError(
                "statistics: expected milpasses.Statistics, the path of a file of some, or a mapping of "
                f"weight names to second moments, not {type(statistics).__name__}"
            )
        self.statistics: Statistics | Mapping[str, Any] = statistics

    def check(self, weights: Sequence[Weight]) -> None:
        """Refuse statistics in which none of ``weights`` is, and those that do not fit: of another model."""
        known = [weight for weight in weights if weight.name in self.statistics]
        if weights and not known:
            names = ", ".join(list(self.statistics)[:3]) or "nothing"
            raise MilpassesError(
                f"the statistics know none of this model's weights ({weights[0].name}, ...) but {names}: "
                "they belong to another model"
            )
        for weight in known:
            found = self.inputs(weight)
            if isinstance(found, Inputs):
                layout_of(weight, found.fit)

    def inputs(self, weight: Weight) -> Inputs | str:
        """As ``Source``'s."""
        if not isinstance(self.statistics, Statistics):
            if weight.name not in self.statistics:
                return "no statistics of it"
            return Inputs(_from_array(weight, self.statistics[weight.name]))
        return _look_up(self.statistics, weight)

    def done(self, weight: Weight, decoded: Array) -> None:
        """Given statistics stay as they are."""


def _look_up(statistics: Statistics, weight: Weight) -> Inputs | str:
    if weight.name in statistics.lookups and weight.name not in statistics.weights:
        return "a table that gather reads has no second moment"
    fit = statistics.weights.get(weight.name)
    if fit is None:
        if weight.name in statistics.held_out:
            return "only held-out samples reached it"
        return statistics.skipped.get(weight.name, "no statistics of it")
    check = statistics.held_out.get(weight.name)
    for moments in (fit,) if check is None else (fit, check):
        if moments.rows <= 0:
            raise MilpassesError(f"{weight.name}: statistics of no rows: run at least one sample")
        if not np.isfinite(moments.square_sum).all():
            raise MilpassesError(f"{weight.name}: its statistics hold NaN or infinity: compute them again")
    return Inputs(fit, check)


def _from_array(weight: Weight, given: Any) -> Moments:
    """Moments of one row, which is any scale, from X'X or its diagonal."""
    values = np.asarray(given, np.float64)
    use = next((c for c in weight.consumers if c.op_type != "gather"), None)
    if use is None:
        raise MilpassesError(f"{weight.name}: statistics of a weight that only gather uses")
    axis = use.channel_axes(weight.rank)[1] if use.op_type in ("matmul", "conv_transpose") else 1
    taps = int(np.prod(weight.shape[2:])) if use.op_type == "conv" else 1
    if values.size == 0 or not np.isfinite(values).all():
        raise MilpassesError(f"{weight.name}: its statistics are empty or hold NaN or infinity")
    full = values.ndim >= 2 and values.shape[-1] == values.shape[-2] and (use.groups == 1 or values.ndim == 3)
    if full and values.ndim <= 3:
        gram = values if values.ndim == 3 else values[None]
        squares = np.einsum("gkk->gk", gram).copy()
        return _one_row(weight, axis, taps, squares, gram)
    if values.ndim > 2:
        raise MilpassesError(
            f"{weight.name}: second moments of shape {values.shape}: expected (K, K) or (K,)"
        )
    return _one_row(weight, axis, taps, np.atleast_2d(values))


def _one_row(weight: Weight, axis: int, taps: int, squares: Array, gram: Array | None = None) -> Moments:
    if squares.min() < 0:
        raise MilpassesError(f"{weight.name}: its second moments hold negative squares")
    return Moments(axis, taps, 1, np.zeros_like(squares), squares, gram)


class Live:
    """Statistics computed while the weights are compressed, of a few weights (a wave) at a time.

    A wave holds as many weights as ``MEMORY`` has room for second moments. With ``sequential`` there are at
    least ``WAVES`` waves, and each sees the weights of those before as they decode: later layers make up for
    what the earlier ones lost. The model runs over all samples once a wave: sequential calibration takes up
    to ``WAVES`` times the runs, while the sums of second moments cost the same.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        weights: Sequence[tuple[Weight, Sequence[str]]],
        *,
        biases: Sequence[tuple[Weight, Sequence[str]]] = (),
        sequential: bool = False,
        limit: int | None = None,
        progress: _Progress | None = None,
    ) -> None:
        """``weights``: those to calibrate, in the order of the program, with the variables they are.

        ``biases``: constants that may be corrected for them.
        """
        from milpasses.interpreter import Interpreter

        self._interpreter = Interpreter(model)
        self._data, self._limit, self._progress = data, limit, progress
        self._sequential = sequential
        self._variables = {one.name: tuple(variables) for one, variables in (*biases, *weights)}
        self._names = {variable: weight.name for weight, variables in weights for variable in variables}
        self._decoded: dict[str, Array] = {}
        self._waves = _waves([weight for weight, _ in weights], WAVES if sequential else 1)
        self._statistics = Statistics()
        self._wave: frozenset[str] = frozenset()

    def inputs(self, weight: Weight) -> Inputs | str:
        """As ``Source``'s; runs the model over the samples at the first weight of a wave."""
        if weight.name not in self._wave:
            wave = next((wave for wave in self._waves if weight.name in wave), None)
            if wave is None:
                return "not to be calibrated"
            self._run(wave)
        return _look_up(self._statistics, weight)

    def done(self, weight: Weight, decoded: Array) -> None:
        """Later waves of a sequential calibration see ``decoded``."""
        if self._sequential:
            for variable in self._variables.get(weight.name, ()):
                self._decoded[variable] = decoded.astype(np.float32)

    def _run(self, wave: dict[str, bool]) -> None:
        from milpasses.data.collect import collect

        self._statistics, self._wave = Statistics(), frozenset(wave)
        if self._decoded:
            self._interpreter.override(self._decoded)
        self._statistics = collect(
            self._interpreter,
            self._data,
            self._names,
            full={name for name, full in wave.items() if full},
            only=self._wave,
            held_out=HELD_OUT,
            limit=self._limit,
            progress=self._progress,
        )


def _waves(weights: Sequence[Weight], least: int) -> list[dict[str, bool]]:
    """The weights in waves, and whether there is room for all of a weight's second moment."""
    waves: list[dict[str, bool]] = [{}]
    room, length = MEMORY, -(-len(weights) // least)
    for weight in weights:
        need = 2 * gram_bytes(weight)
        if waves[-1] and (min(need, MEMORY) > room or len(waves[-1]) >= length):
            waves.append({})
            room = MEMORY
        waves[-1][weight.name] = need <= MEMORY
        room -= need if need <= MEMORY else 0
    return waves


def gram_bytes(weight: Weight) -> int:
    """Bytes of the full second moment of what flows into a weight."""
    use = weight.consumers[0]
    if use.op_type == "conv":
        width = int(np.prod(weight.shape[1:]))
    elif use.op_type == "conv_transpose":
        width = weight.shape[0] // use.groups
    elif use.op_type == "matmul":
        width = weight.shape[use.channel_axes(weight.rank)[1]]
    else:
        width = weight.shape[-1]
    return 8 * use.groups * width * width
