"""Nothing was compressed: that, why, and what would change it, in one line."""

from collections.abc import Sequence

from milpasses.recipe.errors import RecipeError
from milpasses.report import Record, Report

# By the code of a refusal: why, and what to try. What is missing here is said in the refusal's own words.
_REMEDIES = {
    "compressed-already": ("they are compressed already", "requantize=True compresses them anew"),
    "nn-already": ("they are quantized already", "requantize=True quantizes them anew"),
    "small": (
        "they are small (by default at most 2,048 elements)",
        'a rule takes them all the same: recipe="{recipe}; min_elements=0 -> {recipe}"',
    ),
    "not-smaller": ("the form asked for would take no fewer bytes", "a recipe with fewer bits"),
    "not-multiplied": (
        "no op multiplies and sums with them",
        'the recipe takes such constants, too, with "{recipe}; scope=all"',
    ),
    "half-already": ("they are float16 already", "a recipe with fewer bits, such as int8 or pal4"),
    "target": ("the model's target has no such form", "minimum_deployment_target=ct.target.iOS18"),
    "vector": ("vectors stay dense in Core ML", ""),
}


def nothing_compressed(report: Report) -> str | None:
    """What to say of a report in which no weight was compressed; None where one was, or none was to be."""
    if report.count("compressed") or any(record.status == "quantized" for record in report.activations):
        return None
    records = list(report)
    if not records:
        return "nothing was compressed: the model has no weights"
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_code(record), []).append(record)
    code, group = max(groups.items(), key=lambda item: sum(record.bytes_before for record in item[1]))
    nbytes = sum(record.bytes_before for record in group)
    share = nbytes / max(sum(record.bytes_before for record in records), 1)
    counted = f"{len(group):,} of {len(records):,} weights ({share:.0%} of the bytes)"
    why, remedy = _words(code, group, report.recipe)
    return f"nothing was compressed: {counted}: {why}" + (f"; {remedy}" if remedy else "")


def require_compressed(report: Report) -> None:
    """Raise ``RecipeError`` where nothing was compressed, unless that is what the recipe asked for.

    What ``strict`` makes of it. A recipe that keeps every weight asked for nothing.
    """
    said = nothing_compressed(report)
    if said is not None and (not report.records or any(record.refusal for record in report)):
        raise RecipeError(said)


def _code(record: Record) -> str:
    if record.refusal is not None and record.refusal.code in _REMEDIES:
        return record.refusal.code
    return record.status if record.refusal is None else f"={record.refusal.code}"


def _words(code: str, group: Sequence[Record], recipe: str) -> tuple[str, str]:
    if code == "kept":
        return "the recipe keeps them", "another recipe, or a rule for them, compresses them"
    why, remedy = _REMEDIES.get(code, (group[0].reason or group[0].status, ""))
    simple = recipe if recipe and ";" not in recipe else "int8"
    return why, remedy.format(recipe=simple)
