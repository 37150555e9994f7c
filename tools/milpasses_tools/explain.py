"""``milpasses explain``: what each weight of a model is stored as, why, and what would change that."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from milpasses_tools._explain.explanation import Explanation, FormTotal, Sort, StoredWeight, join_parts
from milpasses_tools._options import (
    Force,
    Json,
    Model,
    OneFunction,
    OutputFile,
    Part,
    Recipe,
    Requantize,
    Target,
    read_target,
)
from milpasses_tools._output import folder_bytes, print_json, printed_to
from milpasses_tools._progress import Progress, progress
from milpasses_tools._view.features import Function, functions_of

if TYPE_CHECKING:
    import os

    from coremltools.models import MLModel

    from milpasses.encoding.encodings import Encoding
    from milpasses.program.opset import Opset
    from milpasses.program.package import Package
    from milpasses.program.saved import SavedProgram
    from milpasses.program.weights import Site
    from milpasses_tools._explain.advice import Facts
    from milpasses_tools._explain.why import Decider

__all__ = ["Explanation", "FormTotal", "Function", "Sort", "StoredWeight", "explain"]


def explain(
    model: "str | os.PathLike[str] | MLModel | Package",
    *,
    recipe: Any = None,
    target: Any = None,
    requantize: bool = False,
    units: Sequence[str] = (),
    part: str | None = None,
    function: str | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Say of each weight of an ML Program how it is stored, why, and what would change that.

    Weights of fewer than ten elements are stored in the program itself and not listed. Where milpasses
    compressed the model, reasons and rules come from the report that it keeps in its metadata; else from what
    holds for any recipe.

    Args:
        model: the path of an ``.mlpackage`` or ``.mlmodel``, an ``MLModel``, or an open package; nothing is
            written.
        recipe: say in ``plan`` what ``milpasses.compress`` would do with it; whatever ``Recipe.of`` takes.
        target: the deployment target of the plan (``ct.target.iOS18``), the model's own unless given.
        requantize: the plan compresses anew what is compressed already.
        units: ``neural-engine`` (``ane``), ``gpu``, ``cpu``: add ``findings``, what users reported of such
            forms there.
        part: of a pipeline, this program alone. Without, weights are called ``part/weight``.
        function: of several functions, the weights, inputs and outputs of this one alone.
        progress: called with (done, total, weight) while the recipe is tried.

    Raises:
        PackageError: no ML Program.
        MilpassesError: a recipe, a target or a unit that there is none of.
    """
    from milpasses.activations.existing import stored_pairs
    from milpasses.program.opening import check_newer, open_program
    from milpasses.program.sources import read_source
    from milpasses.report import METADATA_KEY, read_metadata
    from milpasses_tools._explain.advice import advise, feature_facts, full_names, op_facts, weight_facts
    from milpasses_tools._explain.plan import make_plan
    from milpasses_tools._explain.why import Decider
    from milpasses_tools._models import open_parts, open_readable

    parts = open_parts(model, part)
    if parts:
        options: dict[str, Any] = {"recipe": recipe, "target": target, "requantize": requantize}
        each = {
            name: explain(package, units=units, function=function, progress=progress, **options)
            for name, package in parts.items()
        }
        joined, path = join_parts(each), read_source(model).path
        return joined if path is None else attrs.evolve(joined, model=str(path), files=_files(path))
    package = open_readable(model)
    program = open_program(package)
    report = read_metadata(package.spec.description.metadata.userDefined.get(METADATA_KEY, ""))
    decider = Decider.of(report)
    sites = program.sites()
    functions = list(program.functions)
    if function is not None:
        name = program.function_name(function)
        functions = [one for one in functions if one.name == name]
        sites = [site for site in sites if name in site.weight.functions]
    known: list[tuple[str, Facts]] = []

    def look(site: "Site", encoding: "Encoding | None", op: str) -> None:
        if encoding is None and site.existing is not None:
            encoding, op = site.existing(), site.op_type
        if encoding is not None:
            used_by = tuple(use.op_type for use in site.weight.consumers)
            known.append((site.weight.name, weight_facts(encoding, op, used_by)))

    advise(units, {})  # an unknown unit is said before a recipe is tried
    plan = None
    if recipe is not None:
        wanted = program.target if target is None else _target(target)
        if target is not None:
            check_newer([program], wanted)
        plan = make_plan(program, sites, recipe, wanted, requantize, progress, look if units else None)
    elif units:
        for site in sites:
            look(site, None, "")
    things: dict[str, Iterable[tuple[str, Facts]]] = {
        "weight": known,
        **feature_facts(package.spec.description),
    }
    if units:
        things["op"] = [fact for one in functions for fact in op_facts(one.block)]
    spec_bytes = package.spec_path.stat().st_size
    file_bytes = folder_bytes(package.model_folder / "weights")
    return Explanation(
        str(package.path),
        program.target.name,
        functions_of(package.spec.description, [one.name for one in functions]),
        tuple(_weight(one, program, decider) for one in sites),
        {
            "weight files": file_bytes,
            "specification": spec_bytes,
            "other files": folder_bytes(package.path) - spec_bytes - file_bytes,
        },
        str(report.get("recipe", "")),
        str(report.get("milpasses", "")),
        plan,
        full_names(units),
        advise(units, things),
        tuple(pair for one in functions for pair in stored_pairs(one)),
    )


def _files(path: Path) -> dict[str, int]:
    """Bytes of a pipeline's files, those of parts that were read into programs as they are in it."""
    weights = sum(file.stat().st_size for file in path.rglob("*.bin"))
    spec = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*.mlmodel")))
    other = folder_bytes(path) - weights - spec
    return {"weight files": weights, "specification": spec, "other files": other}


def _target(target: Any) -> "Opset":
    from milpasses.program.opset import opset_of

    return opset_of(int(target), str(getattr(target, "name", target)))


def _weight(site: "Site", program: "SavedProgram", decider: "Decider") -> StoredWeight:
    from milpasses_tools._explain.why import with_half

    weight = site.weight
    record = decider.record(weight.name)
    compressed = site.existing is not None
    here = compressed and record.get("status") == "compressed"
    sqnr = record.get("sqnr_db") if here else None
    form = f"dense {weight.dtype}" if site.existing is None else site.existing().form
    why, change = ("", "") if compressed else _why(site, program.target, decider)
    change = with_half(change, site, program.target)
    return StoredWeight(
        name=weight.name,
        shape=weight.shape,
        dtype=weight.dtype,
        form=form,
        nbytes=site.all_nbytes,
        used_by=tuple(f"{use.op_name}:{use.op_type}.{use.param}" for use in weight.consumers),
        functions=weight.functions,
        compressed=compressed,
        why=why,
        sqnr_db=None if sqnr is None else float(sqnr),
        rule=decider.rule(site),
        change=change,
        note=str(record.get("reason", "")) if here else "",
    )


def _why(site: "Site", target: "Opset", decider: "Decider") -> tuple[str, str]:
    """Why a weight is dense, and what would change it: by the report, else by what any recipe would meet."""
    from milpasses.recipe.recipe import Recipe
    from milpasses.rewrite import Rewriter
    from milpasses_tools._explain.why import what_would_change

    record = decider.record(site.weight.name)
    if record.get("status") in ("kept", "skipped"):
        reason = str(record.get("reason") or record["status"])
        decision = decider.decision(site)
        if decision is None:
            return reason, ""
        return reason, what_would_change(site, decision, target, decider.refusal(site.weight.name))
    usual = Recipe.of("int8")
    decision = usual.decide(site.weight)
    unwanted = Rewriter(usual, target).unwanted(site, decision)
    if unwanted is None:
        return "nothing compressed it yet", ""
    return str(unwanted[1]), what_would_change(site, decision, target, unwanted[1])


def command(
    model: Model,
    recipe: Recipe = None,
    target: Target = None,
    requantize: Requantize = False,
    units: Annotated[
        list[str] | None,
        typer.Option(
            "--for", metavar="UNIT", help="Warn of forms: neural-engine (ane), gpu, cpu (repeatable)."
        ),
    ] = None,
    part: Part = None,
    function: OneFunction = None,
    sort: Annotated[Sort, typer.Option(help="Largest first, by name, or by form.")] = Sort.BYTES,
    top: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="List the first N weights; totals count all."),
    ] = None,
    output: OutputFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say how each weight of a model is stored, and why.

    For each weight: its form, bits an element, bytes, share of the bytes of all weights, the ops that use it,
    which rule decided, and where it is dense, why, and what would change that. Then totals by form, and the
    files of the package. With --recipe, what compress would do instead; nothing is written. With --for, forms
    and ops that users reported to fail, fall back or compute something else there, each with its thread and a
    remedy.

    \b
    milpasses explain model.mlpackage --recipe int4-b32 --target iOS18 --for neural-engine
    """
    from milpasses.program.files import check_files

    if target is not None and recipe is None:
        raise typer.BadParameter("--target goes with --recipe")
    check_files([output], force, (model, recipe))
    options: dict[str, Any] = {"part": part, "function": function, **({"units": units} if units else {})}
    if recipe is not None:
        options |= {"recipe": recipe, "target": read_target(target), "requantize": requantize}
    with progress("trying the recipe", as_json) as step:
        if recipe is not None:
            options["progress"] = step
        found = explain(model, **options)
    with printed_to(output, force):
        if as_json:
            print_json(found.to_dict(found.sorted(sort)[:top]))
        else:
            _print(found, sort, top)


def _print(found: Explanation, sort: Sort, top: int | None) -> None:
    from milpasses_tools._explain import text

    weights = found.sorted(sort)
    if found.plan is not None:
        text.print_plan(found.plan, sort, top)
    else:
        text.print_weights(found, weights[:top])
        text.print_rest(weights[len(weights[:top]) :])
        print()
        text.print_totals(found)
    if found.units:
        print()
        text.print_findings(found)
