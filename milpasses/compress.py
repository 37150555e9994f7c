"""Entry point: a converted model to a compressed one, and back."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coremltools.models import MLModel

from milpasses.activations.fallback import Fallback
from milpasses.activations.measure import activations_of, repeatable
from milpasses.activations.parts import PartActivations, activations_of_parts
from milpasses.activations.quantize import check_rules
from milpasses.data.norms import is_norms
from milpasses.data.parts import samples_of_part
from milpasses.errors import MilpassesError
from milpasses.interpreter import PipelineInterpreter
from milpasses.program.model import CompressedModel, write_model
from milpasses.program.opening import open_program
from milpasses.program.package import check_output
from milpasses.program.pipelines import (
    SavedPipeline,
    check_one_function,
    is_pipeline,
    open_pipeline,
    opened_parts,
)
from milpasses.program.writer import SavedCopy
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.unmatched import find_unmatched
from milpasses.report import METADATA_KEY, Report
from milpasses.rewrite import (
    Progress,
    Rewriter,
    check_functions,
    decompress_program,
    rewrite_program,
    rewriter_for,
    write_decompressed,
    write_rewritten,
)


def compress(
    model: "str | os.PathLike[str] | MLModel",
    recipe: Any,
    *,
    output: "str | os.PathLike[str] | None" = None,
    requantize: bool = False,
    statistics: Any = None,
    calibration: Any = None,
    sequential: bool = False,
    equalize: bool = True,
    fallback: Any = None,
    strict: bool = False,
    minimum_deployment_target: Any = None,
    part: str | None = None,
    function: str | None = None,
    force: bool = False,
    skip_model_load: bool | None = None,
    progress: Progress | None = None,
) -> CompressedModel:
    """Compress the weights of a converted ML Program, and nothing else of it.

    ``model`` is the path of an ``.mlpackage`` or an ``MLModel``; it is never changed. ``recipe`` is whatever
    ``Recipe.of`` takes: a short name (``"pal4-g16"``), a text, a YAML file, a scheme, a ``Recipe``,
    coremltools' ``OptimizationConfig``. With ``output`` the package is written there, all of it or nothing
    (``force`` replaces what is there); otherwise to a temporary folder that goes with the process, and
    ``save`` keeps it.

    ``calibration`` (whatever ``Samples.of`` takes: an ``.npz`` file, a folder of images, a callable) chooses
    each encoding by what it does to the op's outputs on held-out samples, and is needed by ``method="gptq"``
    and ``"obs"``; biases of conv and linear take up what their weights lose on average. Then the whole model
    runs on the held-out samples: where an output is worse than without data, the weights that cause it go
    back (``report.outputs`` has both figures). Without data,
    ``"norms"`` goes by the scales of the normalizations before the weights. ``sequential`` lets layers see
    what those before became, at up to 8 times the runs.
    ``statistics`` instead takes ``milpasses.statistics(model, data, full=True, held_out=4)``, the file it
    was saved to, or second moments by weight name.

    A recipe with ``a8`` (``"int8+a8"``) also makes activations 8-bit, for iOS17 and later. Their ranges come
    from ``calibration`` (two samples or more; from eight on every fourth is held out, and what it does to the
    outputs decides how ranges are chosen), or from the histograms of ``statistics``. With data, channels of
    one tensor are first scaled alike by what makes and what takes them where held-out outputs gain
    (``equalize``). The report's ``notes`` say what was gained. Tensors that are quantized already stay.
    ``fallback``: the activations that cost held-out outputs most stay float, as few as keep ``"35 dB"`` (or
    ``"1 %"`` of the energy as error) before weights change, or so many; their records say what they cost.

    Of a pipeline every ML Program is compressed, or that of ``part`` alone; the other parts, names and
    interfaces stay. The report calls a weight ``part/weight``, while rules match by ``weight``. All weights
    go into one file. ``calibration`` takes inputs of the pipeline; ``statistics`` needs ``part``.

    A rule that decides no weight is said in the report (``report.unmatched``) and as an
    ``UnmatchedRuleWarning``; with ``strict`` it is a ``RecipeError``, and nothing is written.

    ``requantize`` compresses anew what is compressed already. ``minimum_deployment_target`` raises an older
    model first; one for a target without compressed weights (iOS15) is raised to iOS16, and the report's
    ``notes`` say so. ``function``: which function of a multifunction model runs on the data, its default one
    unless given; weights of all are compressed. ``progress(done, total, name)`` is called for each weight,
    and for each sample that is run. ``skip_model_load`` is ``MLModel``'s; by default a path is not loaded
    into Core ML and a model as it was.

    Returns a ``CompressedModel``, which keeps the ``report``. Raises ``MilpassesError``.
    """
    inputs = model, recipe, calibration, statistics
    recipe, calibration = Recipe.of(recipe), repeatable(calibration)
    options: dict[str, Any] = {
        "requantize": requantize,
        "statistics": statistics,
        "calibration": calibration,
        "sequential": sequential,
        "strict": strict,
        "progress": progress,
    }
    if output is not None:
        check_output(Path(output), force, inputs)
    with opened_parts(model, minimum_deployment_target, part, skip_model_load) as (pipeline, programs):
        check_one_function(pipeline, function)
        if function is not None:
            programs[""].function_name(function)  # raises where there is none of that name
        if pipeline is not None and statistics is not None and not is_norms(statistics) and part is None:
            raise MilpassesError("statistics are of one program: say of which part of the pipeline (part=)")
        with tempfile.TemporaryDirectory() as folder:
            given: Any = (recipe, statistics, calibration, Path(folder))
            asked: dict[str, Any] = {"equalize": equalize, "fallback": Fallback.of(fallback)}
            if pipeline is None:
                plan = activations_of(programs[""], *given, function=function, strict=strict, **asked)
                rewriter = rewriter_for(
                    plan.program, recipe, function=function, prepare=plan.prepare, **options
                )
                return write_rewritten(
                    plan.program, rewriter, CompressedModel, output, force, progress, plan.finish
                )
            found = activations_of_parts(pipeline, programs, *given, **asked)
            rewriters = _rewriters(found, list(programs), recipe, options)
            return _write_pipeline(found.pipeline, part, rewriters, output, force, progress, found.finish)


def decompress(
    model: "str | os.PathLike[str] | MLModel",
    *,
    output: "str | os.PathLike[str] | None" = None,
    part: str | None = None,
    force: bool = False,
    skip_model_load: bool | None = None,
) -> CompressedModel:
    """Store every compressed weight of a converted model densely again, in the type it decodes to.

    ``model``, ``output``, ``part``, ``force`` and ``skip_model_load`` as for ``compress``.
    """
    if output is not None:
        check_output(Path(output), force, (model,))
    if is_pipeline(model):
        return _write_pipeline(open_pipeline(model, skip_model_load), part, None, output, force)
    if part is not None:
        raise MilpassesError(f"part {part}: the model is no pipeline")
    return write_decompressed(open_program(model, skip_model_load), output, force)


def _rewriters(
    found: PartActivations, names: list[str], recipe: Recipe, options: dict[str, Any]
) -> dict[str, Rewriter]:
    """What applies ``recipe`` to each part, by name; data is what reaches the part."""
    pipeline = found.pipeline
    data = options["calibration"]
    runs = data is not None and not is_norms(data)
    interpreter = PipelineInterpreter(pipeline) if runs else None
    rewriters: dict[str, Rewriter] = {}
    known: Any
    for name in names:
        program = pipeline.raised[name]
        check_functions(program)
        known = data if interpreter is None else samples_of_part(interpreter, data, name)
        changed = options | {"calibration": known, "prepare": found.prepares.get(name)}
        rewriters[name] = rewriter_for(program, recipe, **changed)
        rewriters[name].check(program.sites())
    return rewriters


def _write_pipeline(
    pipeline: SavedPipeline,
    part: str | None,
    rewriters: dict[str, Rewriter] | None,
    output: "str | os.PathLike[str] | None",
    force: bool,
    progress: Progress | None = None,
    finish: Callable[[str, Any, Report], None] = lambda name, spec, report: None,
) -> CompressedModel:
    """Write ``pipeline`` with its programs (or ``part``) rewritten; without rewriters decompressed.

    ``finish`` gets the name of each part, its new specification and ``report``.
    """
    report = Report(notes=[note for program in pipeline.raised.values() for note in program.notes])
    if rewriters is not None:  # a rule may be for one part alone
        rewriter = next(iter(rewriters.values()))
        weights = [site.weight for program in pipeline.raised.values() for site in program.sites()]
        find_unmatched(report, rewriter.recipe, weights, rewriter.strict)
        views = [view for program in pipeline.raised.values() for view in program.functions]
        check_rules(rewriter.recipe, views, report, rewriter.strict)

    def rewrite_part(name: str, copy: SavedCopy) -> None:
        found = Report()
        if rewriters is None:
            decompress_program(copy, found)
        else:
            rewrite_program(copy, rewriters[name], found, progress, say_unmatched=False)
            finish(name, copy.spec, found)
        report.add_part(name, found)

    def write_weights(folder: Path) -> Any:
        spec = pipeline.write(folder, rewrite_part, part)
        metadata = spec.description.metadata.userDefined
        if rewriters is None:
            metadata.pop(METADATA_KEY, None)
        else:
            metadata[METADATA_KEY] = report.to_metadata()
        return spec

    return write_model(
        pipeline.package,
        write_weights,
        CompressedModel,
        output,
        force,
        report=report,
        **pipeline.load_options,
    )
