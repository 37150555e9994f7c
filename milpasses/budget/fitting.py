"""Fits a recipe: least output error within a budget of bytes, or least bytes within a loss.

Each weight is encoded once with each candidate, as ``compress`` would, which gives its pairs of bytes and
output error; ``Allocation`` chooses among them. What comes out is a recipe, to be read, edited, kept and used
again.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from milpasses.budget.candidates import Progress, SensitivityBuilder, read_candidates
from milpasses.budget.finalists import MeasuredChoices
from milpasses.budget.probe import Probe
from milpasses.budget.problem import Problem, choose_measured
from milpasses.budget.table import Option, Sensitivity, WeightOptions
from milpasses.budget.text import BUDGET, LOSS, read_budget, read_loss
from milpasses.calibration.encode import feedback_method
from milpasses.calibration.sources import HELD_OUT
from milpasses.data.collect import collect
from milpasses.data.moments import Statistics
from milpasses.data.samples import Samples
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.program.opening import opened_to_compress
from milpasses.program.saved import SavedProgram
from milpasses.recipe import Keep, Recipe, Rule, literal
from milpasses.report import decibels

__all__ = ["Fit", "Option", "Sensitivity", "WeightOptions", "fit", "sensitivity"]
NUMBERS = 100  # outputs to probe with, at least; more samples where one has few
FEWEST, MOST = 2, 16  # samples to take statistics of
_LARGE = 1 << 27  # bytes of weights above which no decoded copy of them is kept


@attrs.frozen
class Fit:
    """A recipe that fits, and how well.

    ``asked``: bytes of the weight file, if a budget was given; ``limit``: the largest output error, if
    ``max_loss`` was. ``used``: bytes that the weight file will have, within 63. ``chosen``: the option of
    each weight. ``output_error``: the sum of theirs, a share of the energy of the model's outputs as in
    ``Sensitivity``; ``measured``: that of all of them together, where there was data to run the model on.
    ``uniform``: for each candidate used for every weight that takes it, (bytes, output error).
    """

    recipe: Recipe
    table: Sensitivity
    chosen: dict[str, Option]
    used: int
    output_error: float
    asked: int | None = None
    limit: float | None = None
    measured: float | None = None
    uniform: dict[str, tuple[int, float]] = attrs.field(factory=dict)

    @property
    def bits_per_weight(self) -> float:
        """Bytes of the weight file for each element of any constant, in bits."""
        return 8 * self.used / max(self.table.elements, 1)

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio of the outputs in dB: measured, else predicted."""
        return decibels(1.0, self.output_error if self.measured is None else self.measured)

    def distribution(self) -> dict[str, tuple[int, int, int]]:
        """For each scheme that was chosen: weights, elements, bytes; most elements first."""
        totals: dict[str, list[int]] = {}
        for weight in self.table:
            option = self.chosen[weight.name]
            counts = totals.setdefault(option.scheme, [0, 0, 0])
            for place, more in enumerate((1, weight.size, option.nbytes)):
                counts[place] += more
        ordered = sorted(totals.items(), key=lambda item: -item[1][1])
        return {scheme: (weights, size, nbytes) for scheme, (weights, size, nbytes) in ordered}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite ratio is None."""
        return {
            "asked_bytes": self.asked,
            "used_bytes": self.used,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "output_error": self.output_error,
            "measured_output_error": self.measured,
            "snr_db": None if math.isinf(self.snr_db) else round(self.snr_db, 3),
            "how": self.table.how,
            "max_output_error": self.limit,
            "distribution": {
                scheme: dict(zip(("weights", "elements", "bytes"), counts, strict=True))
                for scheme, counts in self.distribution().items()
            },
            "uniform": {
                s: {"bytes": nbytes, "output_error": error} for s, (nbytes, error) in self.uniform.items()
            },
            "recipe": self.recipe.to_text(),
        }

    def to_yaml(self) -> str:
        """The recipe as YAML, headed by what it was fitted to."""
        heading = "".join(f"# {line}\n" for line in str(self).splitlines())
        return heading + self.recipe.to_yaml()

    def __str__(self) -> str:
        kind = "summed over layers" if self.table.how == "layers" else "predicted"
        if self.measured is not None:
            kind = f"measured; {decibels(1.0, self.output_error):.1f} dB predicted"
        asked = "" if self.asked is None else f" of {self.asked:,}"
        lines = [
            f"{self.used:,}{asked} bytes, {self.bits_per_weight:.2f} bits a weight, "
            f"{self.snr_db:.1f} dB ({kind})"
        ]
        for scheme, (weights, size, nbytes) in self.distribution().items():
            lines.append(f"{scheme}: {weights:,} weights, {size:,} elements, {nbytes:,} bytes")
        return "\n".join(lines)


def sensitivity(
    model: Any,
    data: Any = None,
    *,
    candidates: Sequence[Any] | None = None,
    statistics: Statistics | None = None,
    rules: Sequence[Any] = (),
    exact: bool = False,
    samples: int | None = None,
    seed: int = 0,
    function: str | None = None,
    requantize: bool = False,
    minimum_deployment_target: Any = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Encode every weight once with every candidate, and tell what each stores and what error it makes.

    Args:
        model: path of an ``.mlpackage``, or ``MLModel``.
        data: whatever ``Samples.of`` takes. With it the model runs, once or twice for each weight, or with
            ``exact`` once for each weight and candidate. Without, errors are those of single layers; see
            ``Sensitivity``.
        samples: use the first so many of the data; by default 2 for statistics and 1 to run each weight
            with, up to 16 for both where a sample has few outputs. Error feedback learns from four times
            as many, by default 64, of which it holds out a quarter.
        seed: of random data.
        candidates: schemes or their texts; the default is a dozen of what the target has. Those with error
            feedback (``pal4-gptq``) take the statistics; so must ``compress`` then.
        statistics: of the weights' inputs, of this model; computed from ``data`` if not given. Without
            either, a layer's error is its weight's own.
        rules: rules, or mappings of their fields, of weights that get one scheme for certain.
        requantize: try weights that are compressed already, too.
        function: which function of a multifunction model runs; its default one unless given.
        minimum_deployment_target: raise an older model to it first. One without compressed weights (iOS15) is
            raised to iOS16, and ``notes`` say so.
        progress: called with (done, total, weight's name).

    Raises:
        MilpassesError: no candidate applies, statistics of another model, data that does not fit.
    """
    if exact and data is None:
        raise MilpassesError("exact: the model has to run: give data")
    with opened_to_compress(model, minimum_deployment_target) as program:
        loaded = LoadedModel.of(program, data, samples, seed, function)
        builder = _builder(program, loaded, candidates, statistics, rules, exact, requantize)
        return builder.build(progress)


def fit(
    model: Any,
    budget: Any = None,
    *,
    max_loss: Any = None,
    data: Any = None,
    validation: Any = None,
    candidates: Sequence[Any] | None = None,
    statistics: Statistics | None = None,
    rules: Sequence[Any] = (),
    sensitivity: Any = None,
    samples: int | None = None,
    seed: int = 0,
    function: str | None = None,
    requantize: bool = False,
    minimum_deployment_target: Any = None,
    progress: Progress | None = None,
) -> Fit:
    """Choose a scheme for each weight: least output error within a budget, or least bytes within a loss.

    With ``data`` the model is run with the whole choice, on four times the samples that each weight was run
    with: against the two best single schemes for all weights and what the layers alone would suggest, unless
    they are predicted to be far worse, and the best is taken; for ``max_loss`` the prediction is corrected
    until what is measured keeps it.

    Args:
        model, data, candidates, statistics, rules, samples, seed, function, requantize,
        minimum_deployment_target, progress: as ``milpasses.budget.sensitivity`` takes them.
        budget: of the weight file: ``"4 bits"`` (an element of any constant), ``"12 MB"`` (``kB``, ``MiB``,
            ...), ``"25 %"`` of what the weights are now, or an int of bytes. Everything in the file counts:
            codes, tables, scales, masks, each blob's record and padding, and what is not compressed.
        max_loss: ``"30 dB"``: signal-to-noise ratio of the outputs at least; ``"1 %"`` or ``0.01``: share of
            their energy that may become error at most. Output error as ``Sensitivity`` defines it: measured
            with data, else predicted. With a budget as well, both must be kept.
        validation: other data, to run whole choices on: what is fitted to some samples suits them better
            than others. By default ``data``; where it is this that error feedback learns from, what of it
            was held out.
        sensitivity: a ``Sensitivity`` of this model, or the path of its JSON; else it is computed.

    Returns:
        The recipe, keyed by the weights' names and contents, and what it uses.

    Raises:
        MilpassesError: neither budget nor ``max_loss``; one that cannot be read, or kept (it says the least
            that can); a table or statistics of another model.
    """
    if budget is None and max_loss is None:
        raise MilpassesError(f"give a budget, {BUDGET}; or max_loss, {LOSS}")
    read_budget(budget, 1, 1)
    limit = None if max_loss is None else read_loss(max_loss)
    if validation is not None and data is None:
        raise MilpassesError("validation: the model has to run: give data, too")
    with opened_to_compress(model, minimum_deployment_target) as program:
        loaded = LoadedModel.of(program, data, samples, seed, function)
        builder = _builder(program, loaded, candidates, statistics, rules, False, requantize)
        if sensitivity is None:
            table = builder.build(progress)
        else:
            table = _of_program(Sensitivity.of(sensitivity), program)
            if candidates is not None or builder.pins:
                raise MilpassesError(
                    "candidates and rules go into the sensitivity table: compute it with them"
                )
        return _fit(budget, limit, validation, statistics, loaded, builder, table)


def _fit(
    budget: Any,
    limit: float | None,
    validation: Any,
    statistics: Statistics | None,
    loaded: "LoadedModel | None",
    builder: SensitivityBuilder,
    table: Sensitivity,
) -> Fit:
    """The choice that ``fit`` makes of ``table``; ``statistics`` as given to it."""
    if not table.weights:
        raise MilpassesError("no candidate applies to any weight: there is nothing to choose")
    problem = Problem(table)
    asked = read_budget(budget, table.elements, problem.bytes_now)
    if loaded is None:
        choice, measured = problem.solve(asked, limit), None
    else:
        if validation is None and statistics is None and builder.statistics and builder.statistics.held_out:
            validation = loaded.source.apart(HELD_OUT)
        choices = MeasuredChoices(builder, loaded.validation_probe(validation), table)
        choice, measured = choose_measured(problem, asked, limit, choices.output_error)
    chosen = problem.options(choice)
    uniform = {name: (problem.bytes(c), problem.output_error(c)) for name, c in problem.uniform.items()}
    return Fit(
        recipe=Recipe(Keep(), [*builder.pins, *_rules(table, chosen)]),
        table=table,
        chosen=chosen,
        used=problem.bytes(choice),
        output_error=problem.output_error(choice),
        asked=asked,
        limit=limit,
        measured=measured,
        uniform=uniform,
    )


@attrs.frozen(eq=False)
class LoadedModel:
    """An interpreter and the data to run it on.

    ``samples``: how many of the data statistics are taken of; ``probed``: how many each weight is run with.
    """

    interpreter: Interpreter
    source: Samples
    samples: int
    probed: int

    @classmethod
    def of(
        cls, program: SavedProgram, data: Any, samples: int | None, seed: int, function: str | None
    ) -> "LoadedModel | None":
        """Load ``program``, a large one without a second, decoded copy of its weights; None without data."""
        if data is None:
            return None
        keep = sum(file.stat().st_size for file in program.package.path.rglob("*.bin")) < _LARGE
        interpreter = Interpreter(program, function, keep_weights=keep)
        source = Samples.of(data, interpreter, limit=4 * (samples or MOST), seed=seed)
        enough = _enough(interpreter, source)
        return cls(interpreter, source, samples or max(enough, FEWEST), samples or enough)

    def first(self, count: int) -> Samples:
        """So many samples."""
        return Samples.of(self.source, self.interpreter, limit=count)

    def validation_probe(self, validation: Any) -> Probe:
        """What measures whole choices: on more samples than each weight was run with."""
        data = self.source if validation is None else validation
        return Probe(self.interpreter, list(Samples.of(data, self.interpreter, limit=4 * self.probed)))


def _enough(interpreter: Interpreter, source: Samples) -> int:
    """So many samples that their outputs are ``NUMBERS``."""
    first = next(iter(source))
    outputs = interpreter.run(first.inputs, interpreter.make_state())
    count = sum(len(value) if isinstance(value, Mapping) else np.size(value) for value in outputs.values())
    return min(math.ceil(NUMBERS / max(count, 1)), MOST)


def _builder(
    program: SavedProgram,
    loaded: LoadedModel | None,
    candidates: Any,
    statistics: Statistics | None,
    rules: Sequence[Any],
    exact: bool,
    requantize: bool,
) -> SensitivityBuilder:
    schemes = read_candidates(candidates, program.target)
    pins = Recipe(Keep(), list(rules)).rules
    probe = None
    if loaded is not None:
        if statistics is None:
            full = any(map(feedback_method, (*schemes.values(), *(rule.scheme for rule in pins))))
            statistics = _statistics(loaded, program, full)
        count = loaded.samples if exact else loaded.probed
        probe = Probe(loaded.interpreter, list(loaded.first(count)))
    return SensitivityBuilder(program, schemes, pins, statistics, probe, exact, requantize)


def _rules(table: Sensitivity, chosen: Mapping[str, Option]) -> list[Rule]:
    """A rule for each weight that is not pinned; by content alone where several have one name."""
    names = [weight.name for weight in table]
    return [
        Rule(
            Keep() if chosen[weight.name].scheme == "keep" else chosen[weight.name].scheme,
            name=literal(weight.name) if names.count(weight.name) == 1 else None,
            content=weight.content,
        )
        for weight in table
        if not weight.pinned
    ]


def _of_program(table: Sensitivity, program: SavedProgram) -> Sensitivity:
    """``table`` if it is of ``program``, as far as names and shapes tell."""
    shapes = {site.weight.name: site.weight.shape for site in program.sites()}
    other = next((weight.name for weight in table if shapes.get(weight.name) != weight.shape), None)
    if other is not None:
        raise MilpassesError(f"the table is of another model: this one has no weight {other} of its shape")
    return table


def _statistics(loaded: LoadedModel, program: SavedProgram, full: bool) -> Statistics:
    """What flows into the weights; with ``full``, for error feedback, of more samples, some held out."""
    function = loaded.interpreter.function_name
    names = {variable: site.weight.name for site in program.sites() for variable in site.variables(function)}
    if full:
        return collect(loaded.interpreter, loaded.source, names, full=True, held_out=HELD_OUT)
    return collect(loaded.interpreter, loaded.first(loaded.samples), names)
