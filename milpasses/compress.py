"""Entry point: a converted model to a compressed one, and back."""

import os
import tempfile
from pathlib import Path
from typing import Any

from coremltools.models import MLModel

from milpasses.activations.fallback import Fallback
from milpasses.activations.measure import activations_of, repeatable
from milpasses.activations.parts import activations_of_parts
from milpasses.data.norms import is_norms
from milpasses.errors import MilpassesError
from milpasses.program.model import CompressedModel
from milpasses.program.opening import open_program
from milpasses.program.package import check_output
from milpasses.program.pipelines import (
    check_one_function,
    is_pipeline,
    open_pipeline,
    opened_parts,
)
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report
from milpasses.rewrite import (
    Progress,
    rewriter_for,
    write_decompressed,
    write_parts,
    write_rewritten,
)
from milpasses.tuning import tune


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
    each encoding by what it does to the op's outputs on held-out samples, and is needed by ``method="gptq"``,
    ``"obs"`` and ``"tune"`` (which goes on as ``milpasses.tune``); biases of conv and linear take up what
    their weights lose on average. Then the whole model runs on the held-out samples: where an output is
    worse than without data, the weights that cause it go back (``report.outputs`` has both figures). Without
    data, ``"norms"`` goes by the scales of the normalizations before the weights. ``sequential`` lets layers
    see what those before became, at up to 8 times the runs.
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
    ``UnmatchedRuleWarning``. Where no weight was compressed, the records say why. With ``strict`` either is a
    ``RecipeError``, unless the recipe keeps every weight, and nothing is written.

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
    if recipe.wants_tuning and (calibration is None or is_norms(calibration)):
        raise MilpassesError(f"{recipe}: tuning runs the model on samples: pass calibration=data")
    if recipe.wants_tuning:
        return tune(
            model, recipe, calibration, output=output, part=part, function=function, force=force,
            minimum_deployment_target=minimum_deployment_target, requantize=requantize,
            sequential=sequential, strict=strict, skip_model_load=skip_model_load, progress=progress,
        )  # fmt: skip
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
            rewriters = found.rewriters(recipe, options)
            report = Report(notes=found.notes)
            return write_parts(
                found.pipeline, rewriters, report, CompressedModel, output, force,
                part=part, progress=progress, finish_part=found.finish,
                finish=lambda spec: found.check_rules(recipe, report, strict), **pipeline.load_options,
            )  # fmt: skip


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
        pipeline = open_pipeline(model, skip_model_load)
        return write_parts(
            pipeline, None, Report(), CompressedModel, output, force, part=part, **pipeline.load_options
        )
    if part is not None:
        raise MilpassesError(f"part {part}: the model is no pipeline")
    return write_decompressed(open_program(model, skip_model_load), output, force)
