"""Which weights of a compressed model make its outputs wrong: the search, by running the original model.

No package is written: the original runs with some of its constants overridden by what the compressed model's
decode to. Group testing after R. Dorfman (1943), in its adaptive form of halving (D.-Z. Du, F. K. Hwang,
"Combinatorial Group Testing and Its Applications", generalized binary splitting).
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from milpasses_tools._bisect.measure import (
    Outputs,
    Tolerance,
    WorstError,
    first_bad,
    measure,
    measure_reference,
    run_all,
)
from milpasses_tools._bisect.nonfinite import NewNonFinite, ReferenceNonFinite, run_observed
from milpasses_tools._progress import Progress

if TYPE_CHECKING:
    from milpasses.data.samples import Sample
    from milpasses.recipe import Rule
    from milpasses_tools._compare.comparison import NonFinite
    from milpasses_tools._compare.runners import PipelineReference, Reference
    from milpasses_tools._view.graph import Function, Op, Weight


@attrs.frozen(eq=False)
class Swap:
    """A weight that differs: its variable in the original, both forms, and the compressed one's values.

    ``values`` by variable: of the weight, and of the bias of its op that was corrected for it.
    """

    variable: str
    original: "Weight"
    compressed: "Weight"
    values: dict[str, Any]
    part: str = ""

    def inside(self, part: str) -> "Swap":
        """The same in a part of a pipeline, ``part/``, whose variables are called so."""
        values = {part + variable: value for variable, value in self.values.items()}
        return attrs.evolve(self, variable=part + self.variable, values=values, part=part)

    def outside(self) -> "Swap":
        """The same where the part runs alone: its variables have their own names."""
        values = {variable.removeprefix(self.part): value for variable, value in self.values.items()}
        return attrs.evolve(self, variable=self.variable.removeprefix(self.part), values=values)

    def keeping(self) -> "Rule":
        """A rule that keeps the weight; in a pipeline by its content: other parts may have the name."""
        from milpasses.program.weights import Weight
        from milpasses.recipe import Keep, Rule, literal

        one = self.original
        if not self.part:
            return Rule(Keep(), name=literal(one.name))
        return Rule(Keep(), content=Weight(one.name, one.shape, one.dtype, (), load=one.load).content)

    @property
    def name(self) -> str:
        """The weight's name in the original; in a pipeline ``part/name``."""
        return self.part + self.original.name


def differing(
    original: Any, compressed: Any, functions: Mapping[str, tuple[str, str]]
) -> tuple[list[Swap], list[str]]:
    """The weights whose values differ, in program order, and notes on those that cannot be swapped.

    ``functions``: the one of each model that runs, by part of a pipeline (``""`` where there is none); the
    variables of a part are called ``part/variable``.
    """
    from milpasses_tools._view.view import view

    first, second = view(original), view(compressed)
    swaps: list[Swap] = []
    notes: list[str] = []
    for part, names in functions.items():
        inside = f"{part}/" if part else ""
        pair = [
            next(function for function in model.functions if function.name == inside + name)
            for model, name in zip((first, second), names, strict=True)
        ]
        found, more = _differing(pair[0], pair[1])
        swaps += [swap.inside(inside) for swap in found]
        notes += [f"part {part}: {note}" if part else note for note in more]
    return swaps, notes


def _differing(first: "Function", second: "Function") -> tuple[list[Swap], list[str]]:
    from milpasses_tools.diff import PairedFunctions, same_values

    pairs = PairedFunctions(first, second)
    swaps: list[Swap] = []
    notes: list[str] = []
    for variable, mine in pairs.weights_a.items():
        other = pairs.same_weight.get(variable)
        if other is None:
            notes.append(f"weight {mine.name} is in the original only")
            continue
        theirs = pairs.weights_b[other]
        if mine.shape != theirs.shape:
            notes.append(f"weight {mine.name} has another shape in the compressed model")
            continue
        values = np.asarray(theirs.load())
        if not same_values(np.asarray(mine.load()), values):
            swaps.append(Swap(variable, mine, theirs, {variable: values}))
    known = set(pairs.same_weight.values())
    notes += [
        f"weight {w.name} is in the compressed model only"
        for v, w in pairs.weights_b.items()
        if v not in known
    ]
    return _with_biases(swaps, first), notes


def _with_biases(swaps: list[Swap], function: "Function") -> list[Swap]:
    """A bias that only one op uses goes with the weight that only this op uses."""
    by_variable = {swap.variable: swap for swap in swaps}
    users: dict[str, list[tuple[Op, str]]] = {}
    for op in function.block.walk():
        for param, operands in op.inputs.items():
            for name in operands:
                if isinstance(name, str) and name in by_variable:
                    users.setdefault(name, []).append((op, param))
    only = {name: uses[0] for name, uses in users.items() if len(uses) == 1}
    weights = {id(op): by_variable[name] for name, (op, param) in only.items() if param == "weight"}
    for name, (op, param) in only.items():
        if param == "bias" and id(op) in weights:
            weights[id(op)].values.update(by_variable.pop(name).values)
    return list(by_variable.values())


@attrs.define(eq=False)
class Subject:
    """The original model with any set of its weights compressed; every set is run once."""

    runner: "Reference | PipelineReference"
    swaps: dict[str, Swap]
    samples: "list[Sample]"
    progress: Progress | None = None
    executions: int = 0
    reference: list[Outputs] = attrs.field(factory=list[Outputs])
    _known: dict[frozenset[str], WorstError] = attrs.field(factory=dict)
    _expected: ReferenceNonFinite = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._expected = ReferenceNonFinite(self.runner.functions)
        self._count("the original")
        self.reference = run_observed(self.runner, self.samples, self._expected)
        measure_reference(self.reference)

    def _count(self, what: str) -> None:
        self.executions += 1
        if self.progress is not None:
            self.progress(self.executions, 0, what)

    def whole(self, runner: "Reference | PipelineReference") -> "tuple[WorstError, NonFinite | None]":
        """The error of the compressed model itself; the first NaN or infinity that the original lacks."""
        observer = NewNonFinite(runner.functions, self._expected)
        self._count("the compressed model")
        outputs = run_observed(runner, self.samples, observer)
        return measure(self.reference, outputs), observer.found

    def error(self, compressed: Iterable[str]) -> WorstError:
        """The output error where just these weights are compressed."""
        chosen = frozenset(compressed)
        if not chosen:
            return measure_reference(self.reference)
        if chosen not in self._known:
            values = [self.swaps[name].values for name in sorted(chosen)]
            self.runner.override({name: value for one in values for name, value in one.items()})
            self._count(f"{len(chosen)} of {len(self.swaps)} weights compressed")
            outputs = run_all(self.runner, self.samples)
            self._known[chosen] = measure(self.reference, outputs)
        return self._known[chosen]


@attrs.define(eq=False)
class Search:
    """Looks for the weights to keep."""

    subject: Subject
    tolerance: Tolerance
    first: str | None = None
    keep: list[str] = attrs.field(factory=list[str])
    alone: dict[str, WorstError] = attrs.field(factory=dict[str, WorstError])

    def run(self, every: bool) -> None:
        """Find ``keep``; with ``every`` the output error of each weight alone, too."""
        names = list(self.subject.swaps)
        if every:
            self._measure_each(names)
        if self._keeps(names):
            return
        if not self._by_halves(names, every):
            self._measure_each(names)
            self._by_error(names)
        self._drop_needless(names)
        self._measure_each(self.keep)

    def _keeps(self, compressed: Iterable[str]) -> bool:
        return self.tolerance.keeps(self.subject.error(compressed))

    def _measure_each(self, names: list[str]) -> None:
        for name in names:
            self.alone.setdefault(name, self.subject.error([name]))

    def _by_halves(self, names: list[str], every: bool) -> bool:
        """Keep the first weight that leaves the tolerance, and so on, while that is cheaper than trying each.

        Log2(n) runs for each weight at fault, and one that verifies. False: there are too many at fault.
        """
        steps = max(len(names).bit_length(), 1)
        for _ in range(1 if every else max(1, len(names) // (2 * steps))):
            left = [name for name in names if name not in self.keep]
            _, end = first_bad(0, len(left), lambda count, left=left: not self._keeps(left[:count]))
            self.keep.append(left[end - 1])
            self.first = self.first or self.keep[0]
            if self._keeps(name for name in names if name not in self.keep):
                return True
        return False

    def _by_error(self, names: list[str]) -> None:
        """Keep the weights that add most error alone, as few of them as are enough."""
        order = sorted(names, key=lambda name: (self.alone[name].snr_db, -self.alone[name].max_error))
        # Counted down, so that few compressed weights are good and many bad, as first_bad wants it.
        good, _ = first_bad(0, len(order), lambda count: not self._keeps(order[len(order) - count :]))
        self.keep = order[: len(order) - good]

    def _drop_needless(self, names: list[str]) -> None:
        """Compress each kept weight again, least error first, that the rest can do without."""
        if len(self.keep) < 2:
            return
        for name in reversed(self.keep[:]):
            kept = [one for one in self.keep if one != name]
            if self._keeps(one for one in names if one not in kept):
                self.keep = kept
