"""Fits a recipe: least output error within a budget of bytes, or least bytes within a loss.

Each weight is encoded once with each candidate, as ``compress`` would, which gives its pairs of bytes and
output error; ``Allocation`` chooses among them. What comes out is a recipe, to be read, edited, kept and used
again.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from milpasses.budget.candidates import Progress, SensitivityBuilder
from milpasses.budget.joined import check_table, join_tables, own_name
from milpasses.budget.loaded import Parts
from milpasses.budget.problem import Problem, choose_measured
from milpasses.budget.table import Option, Sensitivity, WeightOptions
from milpasses.budget.text import BUDGET, LOSS, read_budget, read_loss
from milpasses.data.moments import Statistics
from milpasses.errors import MilpassesError
from milpasses.program.pipelines import opened_parts
from milpasses.recipe import Keep, Recipe, Rule, literal
from milpasses.report import decibels

__all__ = ["Fit", "Option", "Sensitivity", "WeightOptions", "fit", "sensitivity"]


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
    part: str | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Encode every weight once with every candidate, and tell what each stores and what error it makes.

    Args:
        model: path of an ``.mlpackage``, or ``MLModel``. Of a pipeline, all its ML Programs: weights are
            called ``part/weight``, and an output error is of the outputs of the weight's part.
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
        part: of a pipeline, this ML Program alone. Needed where ``statistics`` are given.
        progress: called with (elements done, elements in all, weight's name), before and after each weight.

    Raises:
        MilpassesError: no candidate applies, statistics of another model, data that does not fit.
    """
    if exact and data is None:
        raise MilpassesError("exact: the model has to run: give data")
    with opened_parts(model, minimum_deployment_target, part) as (pipeline, programs):
        parts = Parts.of(pipeline, programs, data, samples, seed, function, part, statistics)
        builders = parts.builders(candidates, statistics, rules, exact, requantize)
        return _build(builders, progress)


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
    part: str | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Choose a scheme for each weight: least output error within a budget, or least bytes within a loss.

    With ``data`` the model is run with the whole choice, on four times the samples that each weight was run
    with: against the two best single schemes for all weights and what the layers alone would suggest, unless
    they are predicted to be far worse, and the best is taken; for ``max_loss`` the prediction is corrected
    until what is measured keeps it.

    Args:
        model, data, candidates, statistics, rules, samples, seed, function, part: as
            ``milpasses.budget.sensitivity`` takes them; and so ``requantize``, ``progress`` and
            ``minimum_deployment_target``.
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
        raise MilpassesError(f"give a budget=, {BUDGET}; or a max_loss=, {LOSS}")
    read_budget(budget, 1, 1)
    limit = None if max_loss is None else read_loss(max_loss)
    if validation is not None and data is None:
        raise MilpassesError("validation: the model has to run: give data, too")
    with opened_parts(model, minimum_deployment_target, part) as (pipeline, programs):
        parts = Parts.of(pipeline, programs, data, samples, seed, function, part, statistics)
        builders = parts.builders(candidates, statistics, rules, False, requantize)
        pins = next(iter(builders.values())).pins
        if sensitivity is None:
            table = _build(builders, progress)
        else:
            table = check_table(Sensitivity.of(sensitivity), programs)
            if candidates is not None or pins:
                raise MilpassesError(
                    "candidates and rules go into the sensitivity table: compute it with them"
                )
        if not table.weights:
            raise MilpassesError("no candidate applies to any weight: there is nothing to choose")
        problem = Problem(table)
        asked = read_budget(budget, table.elements, problem.bytes_now)
        if data is None:
            choice, measured = problem.solve(asked, limit), None
        else:
            measure = parts.measure(builders, table, validation, statistics)
            choice, measured = choose_measured(problem, asked, limit, measure)
        chosen = problem.options(choice)
        uniform = {name: (problem.bytes(c), problem.output_error(c)) for name, c in problem.uniform.items()}
        return Fit(
            recipe=Recipe(Keep(), [*pins, *_rules(table, chosen, list(programs))]),
            table=table,
            chosen=chosen,
            used=problem.bytes(choice),
            output_error=problem.output_error(choice),
            asked=asked,
            limit=limit,
            measured=measured,
            uniform=uniform,
        )


def _build(builders: Mapping[str, SensitivityBuilder], progress: Progress | None) -> Sensitivity:
    """The table of all parts; that of a model that is no pipeline as it is."""
    tables = {name: builder.build(progress) for name, builder in builders.items()}
    return tables[""] if "" in tables else join_tables(tables, builders)


def _rules(table: Sensitivity, chosen: Mapping[str, Option], parts: Sequence[str]) -> list[Rule]:
    """A rule for each weight that is not pinned; by content alone where several have one name."""
    names = [own_name(weight.name, parts)[1] for weight in table]
    return [
        Rule(
            Keep() if chosen[weight.name].scheme == "keep" else chosen[weight.name].scheme,
            name=literal(name) if names.count(name) == 1 else None,
            content=weight.content,
        )
        for weight, name in zip(table, names, strict=True)
        if not weight.pinned
    ]
