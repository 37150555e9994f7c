"""What ``milpasses explain`` found, printed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from milpasses_tools._explain.explanation import Explanation, Sort, StoredWeight
from milpasses_tools._output import shape_text, sqnr_text
from milpasses_tools._table import print_table
from milpasses_tools._words import in_options

if TYPE_CHECKING:
    from milpasses.activations.existing import StoredPair
    from milpasses_tools._explain.plan import Plan, Planned

_MOST_NAMES = 4


def print_weights(found: Explanation, weights: Sequence[StoredWeight]) -> None:
    """A row for each weight; columns that would be empty are left out."""
    columns = ["weight", "shape", "form", ">bits", ">bytes", ">share", "used by", "why"]
    compressed = any(weight.sqnr_db is not None for weight in weights)
    decided = any(weight.rule for weight in weights)
    changed = any(weight.change for weight in weights)
    if compressed:
        columns.insert(6, ">SQNR dB")
    columns += ["decided by"] * decided + ["to change it"] * changed
    rows = [
        [
            weight.name,
            shape_text(weight.shape),
            weight.form,
            weight.bits,
            weight.nbytes,
            f"{found.share(weight.nbytes):.1%}",
            *([sqnr_text(weight.sqnr_db)] if compressed else []),
            " ".join(weight.op_types),
            in_options(weight.why or weight.note),
            *([weight.rule] if decided else []),
            *([in_options(weight.change)] if changed else []),
        ]
        for weight in weights
    ]
    print_table(columns, rows)


def print_rest(rest: Sequence[StoredWeight]) -> None:
    """A line for the weights that are not listed."""
    if rest:
        print(f"and {len(rest):,} more, {sum(weight.nbytes for weight in rest):,} bytes")


def _span(pair: "StoredPair") -> tuple[str, str]:
    if pair.low is None or pair.high is None:
        return "per", "channel"
    return f"{pair.low:.4g}", f"{pair.high:.4g}"


def print_totals(found: Explanation) -> None:
    """Totals by form and file, the target, the recipe, the functions."""
    rows = [(total.form, total.count, total.nbytes, f"{total.share:.1%}") for total in found.by_form()]
    rows.append(("all weights", len(found.weights), found.weight_bytes, "100.0%"))
    print_table(["form", ">weights", ">bytes", ">share"], rows)
    print()
    total = sum(found.files.values())
    rows = [(name, nbytes, f"{nbytes / total:.1%}") for name, nbytes in found.files.items()]
    print_table(["file", ">bytes", ">share"], [*rows, ("the package", total, "100.0%")])
    print()
    if found.activations:
        rows = [(pair.name, pair.dtype, *_span(pair), ", ".join(pair.used_by)) for pair in found.activations]
        print_table(["activation", "type", ">from", ">to", "used by"], rows)
        print()
    print(f"target: {found.target}")
    if found.recipe:
        print(f"compressed by milpasses {found.version} with {found.recipe}")
    for function in found.functions:
        print(f"function: {function.name}")
        for title, features in (
            ("input", function.inputs),
            ("output", function.outputs),
            ("state", function.states),
        ):
            for name, kind in features.items():
                print(f"  {title}: {name} {kind}")


def print_plan(plan: "Plan", sort: Sort, top: int | None) -> None:
    """What the recipe would do, a row for each weight, and the totals."""
    keys = {
        Sort.BYTES: lambda one: (-one.record.bytes_before,),
        Sort.NAME: lambda one: (one.record.name,),
        Sort.FORM: lambda one: (one.record.form, -one.record.bytes_before),
    }
    weights: list[Planned] = sorted(plan.weights, key=keys[sort])
    columns = [
        "weight",
        "shape",
        "would be",
        "form",
        ">bits",
        ">bytes now",
        ">then",
        ">SQNR dB",
        "decided by",
    ]
    rows = [
        [
            one.record.name,
            shape_text(one.record.shape),
            one.record.status,
            one.record.form,
            one.record.bits_per_weight,
            one.record.bytes_before,
            one.record.bytes_after,
            sqnr_text(one.record.sqnr_db),
            one.rule,
            in_options(one.record.reason),
            in_options(one.change),
        ]
        for one in weights[:top]
    ]
    print_table([*columns, "why", "to change it"], rows)
    rest = weights[len(rows) :]
    if rest:
        print(f"and {len(rest):,} more, {sum(one.record.bytes_after for one in rest):,} bytes then")
    totals = plan.totals
    print()
    print(
        f"{plan.recipe} for {plan.target} would compress {totals['compressed']:,} of {totals['weights']:,} "
        f"weights, {totals['bytes_before']:,} -> {totals['bytes_after']:,} bytes, "
        f"{totals['bits_per_weight']:.2f} bits a weight; nothing was written"
    )
    for rule in plan.unmatched:
        print(f"warning: {rule}")
    if plan.refused:
        print(f"compress would refuse: {in_options(plan.refused)}")
    for note in plan.notes:
        print(f"note: {note}")


def print_findings(found: Explanation) -> None:
    """What users reported of the forms and ops in the model."""
    from milpasses_tools._explain.advice import NOTE

    units = ", ".join(found.units)
    if not found.findings:
        print(f"{units}: none of the reports that milpasses knows is about a form or op of this model")
    for finding in found.findings:
        advice = finding.advice
        print(f"{', '.join(advice.units)}: {advice.id}")
        for kind, names in finding.matches.items():
            more = f" and {len(names) - _MOST_NAMES:,} more" * (len(names) > _MOST_NAMES)
            print(f"  {kind}: {' '.join(names[:_MOST_NAMES])}{more}")
        print(f"  {advice.says}")
        print(f"  reported: {advice.reported}")
        for source in advice.sources:
            print(f"  {source}")
        print(f"  remedy: {advice.remedy}" + f" (--recipe {advice.recipe})" * bool(advice.recipe))
    print(f"note: {NOTE}")
