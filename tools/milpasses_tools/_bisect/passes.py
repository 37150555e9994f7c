"""Which pass of a conversion changed what the program computes: the programs after each pass, run.

Part of ``milpasses bisect``.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from milpasses_tools._bisect.found import PassBisection, PassOutputError
from milpasses_tools._bisect.measure import Outputs, Tolerance, first_bad, measure, measure_reference
from milpasses_tools._progress import Progress

if TYPE_CHECKING:
    import os

    from milpasses_tools._bisect.nonfinite import ReferenceNonFinite
    from milpasses_tools._bisect.store import Step, Store
    from milpasses_tools._compare.comparison import NonFinite
    from milpasses_tools._compare.runners import Reference

__all__ = ["PassBisection", "PassOutputError", "bisect_passes"]


def bisect_passes(
    conversion: "Callable[[], Any] | str | os.PathLike[str]",
    data: Any = "random",
    *,
    tolerance: float | None = 40.0,
    max_error: float | None = None,
    samples: int | None = 4,
    seed: int = 0,
    function: str | None = None,
    every: bool = False,
    progress: Progress | None = None,
) -> PassBisection:
    """Find the first pass of a conversion after which the program computes something else.

    The programs after the passes run on the same samples, and their outputs are measured against those of
    the program that the frontend made, before any pass. Without ``every`` the first pass is found by halves,
    which takes it that outputs that left the tolerance stay outside; so is the first one that makes a NaN or
    an infinity which the first program does not make. With ``every`` all programs run, and the pass that adds
    most is known.

    Args:
        conversion: a function that converts one model (``lambda: ct.convert(...)``), or the folder that
            ``trace(dump_after_change=..., keep_programs=True)`` wrote.
        data: what ``milpasses.samples.Samples.of`` takes.
        tolerance: decibels that every output has to reach.
        max_error: absolute error instead; then ``tolerance`` is not used.
        samples: use the first so many; None uses all.
        seed: of random data.
        function: the function to run; the program's default unless given.
        every: run the program after every pass.
        progress: called with (runs so far, 0, what runs).

    Raises:
        MilpassesError: a folder without programs, data that does not fit, no program that can be run.
    """
    from milpasses_tools._bisect.store import Store
    from milpasses_tools.trace import trace

    limit = Tolerance.of(None if max_error is not None else tolerance, max_error)
    with tempfile.TemporaryDirectory() as temporary:
        if callable(conversion):
            with trace(dump_after_change=temporary, keep_programs=True):
                conversion()
        folder = Path(temporary) if callable(conversion) else Path(cast(Any, conversion))
        run = _Programs(Store(folder), function, progress)
        run.start(data, samples, seed)
        return _search(run, limit, every)


@attrs.define(eq=False)
class _Programs:
    """The kept programs, each of which is built and run once."""

    store: "Store"
    function: str | None
    progress: Progress | None
    steps: "list[Step]" = attrs.field(factory=list)
    executions: int = 0
    source: Any = None
    samples: list[Any] = attrs.field(factory=list[Any])
    reference: list[Outputs] = attrs.field(factory=list[Outputs])
    expected: "ReferenceNonFinite | None" = None  # what the reference makes that is not finite
    results: dict[int, PassOutputError] = attrs.field(factory=dict[int, PassOutputError])
    last: tuple[int, list[Outputs]] | None = None

    def start(self, data: Any, samples: int | None, seed: int) -> None:
        """Run the first program that can be run: the reference."""
        from milpasses.data.samples import Samples
        from milpasses.errors import MilpassesError

        self.steps = self.store.steps()
        problems: list[str] = []
        for position, step in enumerate(self.steps):
            try:
                runner = self._runner(step)
            except MilpassesError as problem:
                problems.append(f"after {step.name}: {problem}")
                self.results[position] = PassOutputError(step.index, step.name, problem=str(problem))
                continue
            self.source = Samples.of(data, runner.inputs, limit=samples, seed=seed).finite(runner.run)
            self.samples = list(self.source)
            self.reference, nonfinite = self._run(runner, step)
            whole = measure_reference(self.reference)
            self.results[position] = PassOutputError(step.index, step.name, whole, None, nonfinite)
            self.last = (position, self.reference)
            return
        raise MilpassesError(f"none of the {len(self.steps)} programs can be run; {problems[0]}")

    def result(self, position: int) -> PassOutputError:
        """The output error of one program."""
        from milpasses.errors import MilpassesError

        if position not in self.results:
            step = self.steps[position]
            try:
                outputs, nonfinite = self._run(self._runner(step), step)
                error = measure(self.reference, outputs)
            except MilpassesError as problem:
                self.results[position] = PassOutputError(step.index, step.name, problem=str(problem))
                return self.results[position]
            before = self.last
            # The program before may be one that could not be run: then this is what all passes since added.
            added = None
            if before and before[0] == self._before(position):
                change = measure(before[1], outputs)
                added = change.snr_db if change.known else None
            self.last = (position, outputs)
            self.results[position] = PassOutputError(step.index, step.name, error, added, nonfinite)
        return self.results[position]

    def _before(self, position: int) -> int | None:
        """The nearest earlier program that ran, if all between were tried."""
        for earlier in range(position - 1, -1, -1):
            found = self.results.get(earlier)
            if found is None or not found.problem:
                return earlier
        return None

    def _runner(self, step: "Step") -> "Reference":
        from milpasses.interpreter import Interpreter
        from milpasses_tools._compare.runners import Reference

        return Reference(Interpreter(self.store.load(step), self.function))

    def _run(self, runner: "Reference", step: "Step") -> tuple[list[Outputs], "NonFinite | None"]:
        from milpasses_tools._bisect.nonfinite import NewNonFinite, ReferenceNonFinite, run_observed

        self.executions += 1
        if self.progress is not None:
            self.progress(self.executions, 0, step.name)
        if self.expected is None:
            self.expected = ReferenceNonFinite(runner.functions)
            return run_observed(runner, self.samples, self.expected), None
        observer = NewNonFinite(runner.functions, self.expected)
        return run_observed(runner, self.samples, observer), observer.found


def _search(run: _Programs, limit: Tolerance, every: bool) -> PassBisection:
    count = len(run.steps)
    start = min(run.results, key=lambda at: (bool(run.results[at].problem), at))
    if every:
        for position in range(count):
            run.result(position)
    outside = _first(run, start, lambda one: one.error is None or not limit.keeps(one.error))
    wrong = _first(run, start, lambda one: one.nonfinite is not None)
    passes = tuple(run.results[position] for position in sorted(run.results))
    added = [one for one in passes if one.added_db is not None]
    worst = min(added, key=lambda one: cast(float, one.added_db), default=None)
    made = None if wrong is None else run.results[wrong[1]]
    return PassBisection(
        run.source.description,
        run.source.random,
        len(run.samples),
        str(limit),
        count,
        run.executions,
        passes,
        None if outside is None else run.results[outside[1]],
        () if outside is None else tuple(run.steps[at].name for at in range(outside[0] + 1, outside[1])),
        worst if every else None,
        None if made is None else made.nonfinite,
        None if made is None else made.name,
    )


def _first(run: _Programs, start: int, wrong: Callable[[PassOutputError], bool]) -> tuple[int, int] | None:
    """The last program before, and the first one, for which ``wrong`` holds; None if it never does."""
    if wrong(run.results[start]):
        return start - 1, start
    last = len(run.steps) - 1
    while last > start and run.result(last).problem:
        last -= 1
    if last == start or not wrong(run.results[last]):
        return None

    def is_bad(position: int) -> bool | None:
        one = run.result(position)
        return None if one.problem else wrong(one)

    return first_bad(start, last, is_bad)
