"""``milpasses explain``: what each weight of a model is stored as, and why."""

import json
from collections.abc import Callable
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, cast

import attrs
import typer

from milpasses_tools._output import (
    Json,
    Model,
    folder_bytes,
    json_decibels,
    print_json,
    print_table,
    shape_text,
    sqnr_text,
)

if TYPE_CHECKING:
    import os

    from coremltools.models import MLModel

    from milpasses.mlprogram import MLProgram
    from milpasses.rewrite import Site


class Sort(str, Enum):
    """The order of the weights."""

    BYTES = "bytes"
    NAME = "name"
    FORM = "form"


@attrs.frozen
class StoredWeight:
    """A weight as it is stored.

    ``form``: ``dense float16``, ``lut4 per_grouped_channel(16)``, ... ``why`` says why a weight is not
    compressed, and is empty where it is. ``used_by`` holds texts ``op name:op type.parameter``. ``sqnr_db``
    is what compression cost it, where the model's own report tells.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    nbytes: int
    used_by: tuple[str, ...]
    functions: tuple[str, ...]
    compressed: bool
    why: str = ""
    sqnr_db: float | None = None

    @property
    def bits(self) -> float:
        """Stored bits for each element."""
        return 8 * self.nbytes / max(prod(self.shape), 1)

    @property
    def op_types(self) -> tuple[str, ...]:
        """The types of the ops that use it."""
        return tuple(dict.fromkeys(use.rpartition(":")[2].partition(".")[0] for use in self.used_by))


@attrs.frozen
class Function:
    """A function of the program: what goes in, what comes out, what stays between calls. Name to type."""

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    states: dict[str, str]


@attrs.frozen
class FormTotal:
    """All weights of one form; ``share`` is of the bytes of all weights."""

    form: str
    count: int
    nbytes: int
    share: float


@attrs.frozen
class Explanation:
    """What ``explain`` found. ``files`` are bytes on disk: weight files, specification, other files."""

    model: str
    target: str
    functions: tuple[Function, ...]
    weights: tuple[StoredWeight, ...]
    files: dict[str, int]
    recipe: str = ""
    version: str = ""

    @property
    def weight_bytes(self) -> int:
        """Stored bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights)

    def share(self, nbytes: int) -> float:
        """``nbytes`` as a part of the bytes of all weights, 0 to 1."""
        return nbytes / max(self.weight_bytes, 1)

    def by_form(self) -> tuple[FormTotal, ...]:
        """Totals of each form, the largest first."""
        groups: dict[str, list[int]] = {}
        for weight in self.weights:
            groups.setdefault(weight.form, []).append(weight.nbytes)
        totals = [
            FormTotal(form, len(each), sum(each), self.share(sum(each))) for form, each in groups.items()
        ]
        return tuple(sorted(totals, key=lambda total: (-total.nbytes, total.form)))

    def sorted(self, by: Sort | str = Sort.BYTES) -> tuple[StoredWeight, ...]:
        """The weights, largest first, or by name, or by form and then largest first."""
        keys: dict[Sort, Callable[[StoredWeight], Any]] = {
            Sort.BYTES: lambda weight: -weight.nbytes,
            Sort.NAME: lambda weight: weight.name,
            Sort.FORM: lambda weight: (weight.form, -weight.nbytes),
        }
        return tuple(sorted(self.weights, key=keys[Sort(by)]))

    def to_dict(self, weights: "tuple[StoredWeight, ...] | None" = None) -> dict[str, Any]:
        """Everything as plain values for JSON; ``weights`` replaces the list of weights."""
        return {
            "model": self.model,
            "target": self.target,
            "recipe": self.recipe,
            "milpasses": self.version,
            "functions": [attrs.asdict(function) for function in self.functions],
            "forms": [attrs.asdict(total) for total in self.by_form()],
            "weight_bytes": self.weight_bytes,
            "files": self.files,
            "weights": [
                {
                    **attrs.asdict(weight),
                    "bits": round(weight.bits, 4),
                    "share": round(self.share(weight.nbytes), 6),
                    "sqnr_db": json_decibels(weight.sqnr_db),
                }
                for weight in (self.weights if weights is None else weights)
            ],
        }


def explain(model: "str | os.PathLike[str] | MLModel") -> Explanation:
    """Say of each weight of an ML Program how it is stored, and why it is not smaller.

    ``model`` is the path of an ``.mlpackage`` or an ``MLModel``. Weights of fewer than ten elements are
    stored in the program itself and not listed. Where milpasses compressed the model, reasons come from the
    report that it keeps in its metadata; else from what holds for any recipe. Raises ``PackageError``.
    """
    from milpasses.compress import open_model
    from milpasses.mlprogram import MLProgram
    from milpasses.report import METADATA_KEY

    package, _ = open_model(model, None)
    program = MLProgram(package)
    report = _read_report(package.spec.description.metadata.userDefined.get(METADATA_KEY, ""))
    records = {record["name"]: record for record in report.get("weights", [])}
    weights = [_weight(placed.site, program, records) for placed in program.sites()]
    spec_bytes = package.spec_path.stat().st_size
    weights_folder = package.model_folder / "weights"
    file_bytes = folder_bytes(weights_folder)
    return Explanation(
        str(package.path),
        program.target.name,
        _functions(package.spec.description, [function.name for function in program.functions]),
        tuple(weights),
        {
            "weight files": file_bytes,
            "specification": spec_bytes,
            "other files": folder_bytes(package.path) - spec_bytes - file_bytes,
        },
        str(report.get("recipe", "")),
        str(report.get("milpasses", "")),
    )


def _read_report(text: str) -> dict[str, Any]:
    """The report in a model's metadata; empty where there is none that can be read."""
    try:
        report = json.loads(text)
        named = all(isinstance(record["name"], str) for record in report["weights"])
    except (ValueError, TypeError, KeyError):
        return {}
    return report if named else {}


def _weight(site: "Site", program: "MLProgram", records: dict[str, dict[str, Any]]) -> StoredWeight:
    weight = site.weight
    record = records.get(weight.name, {})
    compressed = site.existing is not None
    sqnr = record.get("sqnr_db") if compressed and record.get("status") == "compressed" else None
    form = site.form or (f"dense {weight.dtype}" if site.existing is None else site.existing().form)
    return StoredWeight(
        name=weight.name,
        shape=weight.shape,
        dtype=weight.dtype,
        form=form,
        nbytes=site.nbytes,
        used_by=tuple(f"{use.op_name}:{use.op_type}.{use.param}" for use in weight.consumers),
        functions=weight.functions,
        compressed=compressed,
        why="" if compressed else _why(site, program, record),
        sqnr_db=None if sqnr is None else float(sqnr),
    )


def _why(site: "Site", program: "MLProgram", record: dict[str, Any]) -> str:
    """Why a weight is dense: what the report says, else what any recipe would meet."""
    from milpasses.recipe import Recipe
    from milpasses.rewrite import Rewriter

    if record.get("status") in ("kept", "skipped"):
        return str(record.get("reason") or record["status"])
    usual = Recipe.of("int8")
    refused = Rewriter(usual, program.target).not_wanted(site, usual.decide(site.weight))
    return "nothing compressed it yet" if refused is None else refused[1]


def _functions(description: Any, names: list[str]) -> tuple[Function, ...]:
    """The functions with their features; a model of one function describes it at the top."""
    described = {function.name: function for function in description.functions}
    return tuple(
        Function(name, _features(one.input), _features(one.output), _features(one.state))
        for name, one in ((name, described.get(name, description)) for name in names)
    )


def _features(features: Any) -> dict[str, str]:
    return {feature.name: _type_text(feature.type) for feature in features}


def _type_text(feature: Any) -> str:
    """A feature's type in a few words: ``float16 1x3x224x224``, ``RGB image 224x224``."""
    kind = cast(str, feature.WhichOneof("Type"))
    optional = " (optional)" if feature.isOptional else ""
    if kind == "stateType":
        return _array_text(feature.stateType.arrayType)
    if kind == "multiArrayType":
        return _array_text(feature.multiArrayType) + optional
    if kind == "imageType":
        image = feature.imageType
        space = type(image).ColorSpace.Name(image.colorSpace)
        return f"{space} image {image.width}x{image.height}{_flexible(image)}{optional}"
    return kind.removesuffix("Type") + optional


def _array_text(array: Any) -> str:
    dtype = type(array).ArrayDataType.Name(array.dataType).lower()
    return f"{dtype} {shape_text(array.shape)}{_flexible(array)}"


def _flexible(feature: Any) -> str:
    """The other shapes or sizes that a feature takes."""
    which = feature.WhichOneof("ShapeFlexibility" if hasattr(feature, "shape") else "SizeFlexibility")
    if which == "enumeratedShapes":
        return f", one of {' '.join(shape_text(one.shape) for one in feature.enumeratedShapes.shapes)}"
    if which == "shapeRange":
        return f", {'x'.join(_range(one) for one in feature.shapeRange.sizeRanges)}"
    if which == "enumeratedSizes":
        return f", one of {' '.join(f'{one.width}x{one.height}' for one in feature.enumeratedSizes.sizes)}"
    if which == "imageSizeRange":
        sizes = feature.imageSizeRange
        return f", {_range(sizes.widthRange)}x{_range(sizes.heightRange)}"
    return ""


def _range(sizes: Any) -> str:
    if sizes.lowerBound == sizes.upperBound:
        return str(sizes.lowerBound)
    return f"({sizes.lowerBound}..{'any' if sizes.upperBound < 0 else sizes.upperBound})"


def command(
    model: Model,
    sort: Annotated[Sort, typer.Option(help="Largest first, by name, or by form.")] = Sort.BYTES,
    top: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="List the first N weights; totals count all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how each weight of a model is stored, and why.

    For each weight: its form, bits an element, bytes, share of the bytes of all weights, the ops that use it,
    and where it is dense, why. Then totals by form, and the files of the package.
    """
    found = explain(model)
    weights = found.sorted(sort)
    listed = weights[:top]
    if as_json:
        print_json(found.to_dict(listed))
        return
    _print_weights(found, listed)
    rest = weights[len(listed) :]
    if rest:
        print(f"and {len(rest):,} more, {sum(weight.nbytes for weight in rest):,} bytes")
    print()
    _print_totals(found)


def _print_weights(found: Explanation, weights: tuple[StoredWeight, ...]) -> None:
    columns = ["weight", "shape", "form", ">bits", ">bytes", ">share", "used by", "why"]
    compressed = any(weight.sqnr_db is not None for weight in weights)
    if compressed:
        columns.insert(6, ">SQNR dB")
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
            weight.why,
        ]
        for weight in weights
    ]
    print_table(columns, rows)


def _print_totals(found: Explanation) -> None:
    rows = [(total.form, total.count, total.nbytes, f"{total.share:.1%}") for total in found.by_form()]
    rows.append(("all weights", len(found.weights), found.weight_bytes, "100.0%"))
    print_table(["form", ">weights", ">bytes", ">share"], rows)
    print()
    total = sum(found.files.values())
    rows = [(name, nbytes, f"{nbytes / total:.1%}") for name, nbytes in found.files.items()]
    print_table(["file", ">bytes", ">share"], [*rows, ("the package", total, "100.0%")])
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
