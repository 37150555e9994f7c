"""One table for the programs of a pipeline, and back: a budget is for the weight file that they share."""

from collections.abc import Callable, Mapping, Sequence

import attrs

from milpasses.budget.candidates import SensitivityBuilder
from milpasses.budget.stored import FILE_HEADER
from milpasses.budget.table import Option, Sensitivity, WeightOptions
from milpasses.errors import MilpassesError
from milpasses.program.saved import SavedProgram

Measure = Callable[[tuple[Option, ...]], float]


def join_tables(tables: Mapping[str, Sensitivity], builders: Mapping[str, SensitivityBuilder]) -> Sensitivity:
    """The tables of a pipeline's parts as one, whose weights are called ``part/weight``.

    Equal weights of several parts are stored once and decided once: an entry under the first one's name, with
    the sum of their errors. Output errors are those of a weight's own part, taken to add up over the parts.
    """
    weights: dict[tuple[str, bool], WeightOptions] = {}
    twice = 0
    for name, table in tables.items():
        for weight in table:
            key = weight.content, weight.pinned
            known = weights.get(key)
            if known is None or known.name.startswith(f"{name}/"):  # of one part they are told apart by name
                key = key if known is None else (f"{name}/{weight.name}", weight.pinned)
                weights[key] = attrs.evolve(weight, name=f"{name}/{weight.name}")
            else:
                weights[key] = _merged(known, weight)
                twice += weight.size
    fixed = {blob: nbytes for builder in builders.values() for blob, nbytes in builder.fixed.items()}
    first = next(iter(tables.values()))
    return attrs.evolve(
        first,
        weights=tuple(weights.values()),
        candidates=tuple(dict.fromkeys(scheme for table in tables.values() for scheme in table.candidates)),
        elements=sum(table.elements for table in tables.values()) - twice,
        fixed_bytes=sum(fixed.values()) + FILE_HEADER,
        notes=tuple(f"{name}: {note}" for name, table in tables.items() for note in table.notes),
    )


def _merged(a: WeightOptions, b: WeightOptions) -> WeightOptions:
    """Two equal weights as one: what both may become, with both errors."""
    pairs = [(option, b.option(option.scheme)) for option in a.options]
    options = [
        attrs.evolve(
            one,
            output_error=one.output_error + other.output_error,
            layer_error=one.layer_error + other.layer_error,
        )
        for one, other in pairs
        if other is not None
    ]
    return attrs.evolve(a, options=tuple(options), refused={**b.refused, **a.refused})


def own_name(name: str, parts: Sequence[str]) -> tuple[str, str]:
    """(part, weight) of a joined table's ``name``; the part is ``""`` where the model is no pipeline."""
    part = max((part for part in parts if part and name.startswith(f"{part}/")), key=len, default="")
    return part, name.removeprefix(f"{part}/") if part else name


def table_of_part(
    table: Sensitivity, program: SavedProgram, name: str, parts: Sequence[str]
) -> tuple[Sensitivity, list[int]]:
    """What of a joined ``table`` is of one part, under its own names, and the place of each row in it."""
    by_content: dict[str, list[int]] = {}
    for place, weight in enumerate(table):
        by_content.setdefault(weight.content, []).append(place)
    shapes = {content.partition(":")[0] + ":" for content in by_content}
    rows: list[WeightOptions] = []
    places: list[int] = []
    for site in program.sites():
        weight = site.weight
        found = by_content.get(weight.content, []) if weight.content_shape in shapes else []
        own = [place for place in found if own_name(table.weights[place].name, parts) == (name, weight.name)]
        for place in (own or found)[:1]:
            rows.append(attrs.evolve(table.weights[place], name=weight.name))
            places.append(place)
        program.release()
    return attrs.evolve(table, weights=tuple(rows)), places


def summed(measures: Sequence[tuple[Measure, Sequence[int]]]) -> Measure:
    """The sum of the output errors of several parts, each with the places of its weights in the table."""

    def measure(chosen: tuple[Option, ...]) -> float:
        return sum(part(tuple(chosen[place] for place in places)) for part, places in measures)

    return measure


def check_table(table: Sensitivity, programs: Mapping[str, SavedProgram]) -> Sensitivity:
    """``table`` if it is of these programs, as far as names and shapes tell; else ``MilpassesError``."""
    shapes = {
        f"{part}/{site.weight.name}" if part else site.weight.name: site.weight.shape
        for part, program in programs.items()
        for site in program.sites()
    }
    other = next((weight.name for weight in table if shapes.get(weight.name) != weight.shape), None)
    if other is not None:
        raise MilpassesError(f"the table is of another model: this one has no weight {other} of its shape")
    return table
