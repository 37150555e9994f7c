"""Where calibrated methods get a weight's statistics from: given, or computed as the weights are compressed.

What is fitted to the samples is validated on others: every fourth sample is held out, and of each weight's
possible encodings the one is kept whose outputs are nearest on those. With one sample, or statistics without
a held-out part, the same rows serve for both.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.calibration.matrices import layout_of
from milpasses.data.collect import collect
from milpasses.data.collect import statistics as collect_statistics
from milpasses.data.held_out import HeldOutRuns
from milpasses.data.moments import Moments, Statistics
from milpasses.data.norms import NORMS, is_norms
from milpasses.data.samples import Samples
from milpasses.errors import MilpassesError, Refusal
from milpasses.interpreter import Interpreter
from milpasses.program.flows import MatrixLayout
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site, Weight
from milpasses.recipe.names import saved_name

Array = NDArray[Any]
HELD_OUT = 4  # every so many-th sample
BATCHES = 8  # of weights, in sequential calibration
MOST = 16  # held-out samples on which the whole model is run again
MEMORY = 1 << 31  # bytes of second moments at a time
_Progress = Callable[[int, int | None, str], None]
Prepare = Callable[[Interpreter], None]


@attrs.frozen(eq=False)
class Inputs:
    """What flows into one weight: to fit to, and in the samples held out (None: there are none).

    ``feedback``: error feedback is a candidate, though the scheme does not ask for it.
    """

    fit: Moments
    held_out: Moments | None = None
    feedback: bool = False

    @property
    def validation(self) -> Moments:
        """The moments that decide between encodings."""
        return self.fit if self.held_out is None else self.held_out


class StatisticsSource(Protocol):
    """Gives the statistics of one weight after another, in the order of the program."""

    def inputs(self, weight: Weight) -> Inputs | Refusal:
        """What flows into ``weight``; where nothing is known, why."""
        ...

    def done(self, weight: Weight, decoded: Array) -> None:
        """``weight`` is compressed and decodes to ``decoded``, or is a bias that was corrected to that."""
        ...


class KnownStatistics:
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
        known = [weight for weight in weights if self._key(weight.name) in self.statistics]
        if weights and not known:
            names = ", ".join(list(self.statistics)[:3]) or "nothing"
            raise MilpassesError(
                f"the statistics know none of this model's weights ({weights[0].name}, ...) but {names}: "
                "they belong to another model"
            )
        for weight in known:
            inputs = self.inputs(weight)
            if isinstance(inputs, Inputs):
                layout_of(weight, inputs.fit)

    def inputs(self, weight: Weight) -> Inputs | Refusal:
        """As ``StatisticsSource``'s."""
        name = self._key(weight.name)
        if not isinstance(self.statistics, Statistics):
            if name not in self.statistics:
                return Refusal("no-statistics")
            return Inputs(_from_array(weight, self.statistics[name]))
        return _look_up(self.statistics, weight, name)

    def _key(self, name: str) -> str:
        """The name of a weight as the statistics have it: a pass sees names as they were before saving."""
        kinds = ("weights", "lookups", "skipped", "held_out")
        given = isinstance(self.statistics, Statistics)
        tables = [getattr(self.statistics, kind) for kind in kinds] if given else [self.statistics]
        return name if any(name in table for table in tables) else saved_name(name)

    def done(self, weight: Weight, decoded: Array) -> None:
        """These statistics stay as they are."""


def _look_up(statistics: Statistics, weight: Weight, name: str) -> Inputs | Refusal:
    if name in statistics.lookups and name not in statistics.weights:
        return Refusal("lookup-table")
    fit = statistics.weights.get(name)
    if fit is None:
        if name in statistics.held_out:
            return Refusal("only-held-out")
        return statistics.skipped.get(name) or Refusal("no-statistics")
    held_out = statistics.held_out.get(name)
    for moments in (fit,) if held_out is None else (fit, held_out):
        if moments.rows <= 0:
            raise MilpassesError(f"{weight.name}: statistics of no rows: run at least one sample")
        if not np.isfinite(moments.square_sum).all():
            raise MilpassesError(f"{weight.name}: its statistics hold NaN or infinity: compute them again")
    return Inputs(fit, held_out)


def _from_array(weight: Weight, given: Any) -> Moments:
    """Moments of one row, which is any scale, from X'X or its diagonal."""
    values = np.asarray(given, np.float64)
    if weight.product is None:
        raise MilpassesError(f"{weight.name}: statistics of a weight that only gather uses")
    layout = weight.product.layout(weight.shape)
    if values.size == 0 or not np.isfinite(values).all():
        raise MilpassesError(f"{weight.name}: its statistics are empty or hold NaN or infinity")
    square = values.ndim >= 2 and values.shape[-1] == values.shape[-2]
    if square and (values.ndim == 3 or (values.ndim == 2 and layout.groups == 1)):
        gram = values if values.ndim == 3 else values[None]
        squares = np.einsum("gkk->gk", gram).copy()
        return _one_row(weight, layout, squares, gram)
    if values.ndim > 2:
        raise MilpassesError(
            f"{weight.name}: second moments of shape {values.shape}: expected (K, K) or (K,)"
        )
    return _one_row(weight, layout, np.atleast_2d(values))


def _one_row(weight: Weight, layout: MatrixLayout, squares: Array, gram: Array | None = None) -> Moments:
    if squares.min() < 0:
        raise MilpassesError(f"{weight.name}: its second moments hold negative squares")
    return Moments(layout.axis, layout.taps, 1, np.zeros_like(squares), squares, gram)


class OnlineStatistics:
    """Statistics computed while the weights are compressed, of a batch of weights at a time.

    A batch holds as many weights as ``MEMORY`` has room for second moments. With ``sequential`` there are at
    least ``BATCHES`` of them, and each sees the weights of those before as they decode: later layers make up
    for what the earlier ones lost. The model runs over all samples once a batch: sequential calibration takes
    up to ``BATCHES`` times the runs, while the sums of second moments cost the same.
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
        function: str | None = None,
        prepare: Prepare | None = None,
        progress: _Progress | None = None,
    ) -> None:
        """``weights``: those to calibrate, in the order of the program, with the variables they are.

        ``biases``: constants that may be corrected for them. ``function``: the one that runs. ``prepare``
        is called with the interpreter first: weights are fitted to the inputs that they will have, and error
        feedback is among the candidates.
        """
        self._interpreter = Interpreter(model, function)
        self._prepare = prepare
        if prepare is not None:
            prepare(self._interpreter)
        self._data, self._limit, self._progress = data, limit, progress
        self._sequential = sequential
        self._variables = {constant.name: tuple(names) for constant, names in (*biases, *weights)}
        self._names = {variable: weight.name for weight, variables in weights for variable in variables}
        self._decoded: dict[str, Array] = {}
        self._batches = _batches([weight for weight, _ in weights], BATCHES if sequential else 1)
        self._statistics = Statistics()
        self._current: frozenset[str] = frozenset()

    def inputs(self, weight: Weight) -> Inputs | Refusal:
        """As ``StatisticsSource``'s; runs the model over the samples at the first weight of a batch."""
        if weight.name not in self._current:
            batch = next((batch for batch in self._batches if weight.name in batch), None)
            if batch is None:
                return Refusal("not-selected")
            self._run(batch)
        found = _look_up(self._statistics, weight, weight.name)
        fed = self._prepare is not None and isinstance(found, Inputs)
        return attrs.evolve(found, feedback=True) if fed else found

    def done(self, weight: Weight, decoded: Array) -> None:
        """Later batches of a sequential calibration see ``decoded``."""
        if self._sequential:
            for variable in self._variables.get(weight.name, ()):
                self._decoded[variable] = decoded.astype(np.float32)

    @property
    def function(self) -> str:
        """The function that runs."""
        return self._interpreter.function_name

    def held_out_runs(self, most: int = MOST) -> HeldOutRuns | None:
        """Runs of the model as it was on at most ``most`` held-out samples; None where there are none."""
        if self._statistics.samples < 2:
            return None
        samples = Samples.of(self._data, self._interpreter, limit=self._limit).apart(HELD_OUT)
        self._interpreter.override({})
        inputs = [sample.inputs for sample in islice(samples, most)]
        self._interpreter.alter({})
        runs = HeldOutRuns(self._interpreter, inputs)
        if self._prepare is not None:  # what is compared with the outputs as they were has its 8-bit inputs
            self._prepare(self._interpreter)
        return runs

    def _run(self, batch: dict[str, bool]) -> None:
        self._statistics, self._current = Statistics(), frozenset(batch)
        if self._decoded:
            self._interpreter.override(self._decoded)
        self._statistics = collect(
            self._interpreter,
            self._data,
            self._names,
            full={name for name, full in batch.items() if full},
            only=self._current,
            held_out=HELD_OUT,
            limit=self._limit,
            progress=self._progress,
        )


def _batches(weights: Sequence[Weight], least: int) -> list[dict[str, bool]]:
    """The weights in batches, and whether there is room for all of a weight's second moment."""
    batches: list[dict[str, bool]] = [{}]
    room, length = MEMORY, -(-len(weights) // least)
    for weight in weights:
        need = 2 * gram_bytes(weight)
        if batches[-1] and (min(need, MEMORY) > room or len(batches[-1]) >= length):
            batches.append({})
            room = MEMORY
        batches[-1][weight.name] = need <= MEMORY
        room -= need if need <= MEMORY else 0
    return batches


def gram_bytes(weight: Weight) -> int:
    """Bytes of the full second moment of what flows into a weight; 0 where it is only read."""
    if weight.product is None:
        return 0
    layout = weight.product.layout(weight.shape)
    return 8 * layout.groups * layout.width**2


def source_for(
    program: SavedProgram,
    calibrates: Callable[[Site], bool],
    statistics: Any,
    calibration: Any,
    sequential: bool,
    function: str | None,
    progress: Callable[[int, int, str], None] | None,
    prepare: Prepare | None = None,
) -> StatisticsSource | None:
    """What ``milpasses.compress`` is given by ``statistics``, ``calibration`` and ``sequential``.

    ``calibrates``: the weights of ``program`` that statistics will be asked of. ``function``: the one that
    runs; ``prepare``: as for ``OnlineStatistics``. None where neither statistics nor data are given.
    """
    if statistics is not None and calibration is not None:
        raise MilpassesError("statistics and calibration: give one of the two")
    if sequential and (calibration is None or is_norms(calibration)):
        raise MilpassesError(
            "sequential: only with calibration=data, which the model is run on again and again"
        )
    if statistics is None and calibration is None:
        return None
    if is_norms(calibration) or is_norms(statistics):
        return KnownStatistics(collect_statistics(program, NORMS, function=function))
    sites = [site for site in program.sites() if calibrates(site)]
    if statistics is not None:
        known = KnownStatistics(statistics)
        known.check([site.weight for site in sites])
        return known

    def shown(done: int, total: int | None, name: str) -> None:
        if progress is not None:
            progress(done, total or done, f"running {name}")

    name = program.function_name(function)
    return OnlineStatistics(
        program,
        calibration,
        _with_variables(sites, name),
        biases=_with_variables([site for site in program.sites() if site.weight.rank == 1], name),
        sequential=sequential,
        function=name,
        prepare=prepare,
        progress=shown,
    )


def _with_variables(sites: Sequence[Site], function: str) -> list[tuple[Weight, list[str]]]:
    return [(site.weight, site.variables(function)) for site in sites]
