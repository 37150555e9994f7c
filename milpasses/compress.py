"""Entry point: a converted model to a compressed one, and back."""

import os
from pathlib import Path
from typing import Any

from coremltools.models import MLModel

from milpasses.program.model import CompressedModel
from milpasses.program.opening import open_program, opened_to_compress
from milpasses.program.package import check_output
from milpasses.recipe.recipe import Recipe
from milpasses.rewrite import Progress, rewriter_for, write_decompressed, write_rewritten


def compress(
    model: "str | os.PathLike[str] | MLModel",
    recipe: Any,
    *,
    output: "str | os.PathLike[str] | None" = None,
    requantize: bool = False,
    statistics: Any = None,
    calibration: Any = None,
    sequential: bool = False,
    strict: bool = False,
    minimum_deployment_target: Any = None,
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
    and ``"obs"``; biases of conv and linear take up what their weights lose on average. Without data,
    ``"norms"`` goes by the scales of the normalizations before the weights. ``sequential`` lets layers see
    what those before became, at up to 8 times the runs.
    ``statistics`` instead takes ``milpasses.statistics(model, data, full=True, held_out=4)``, the file it
    was saved to, or second moments by weight name.

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
    recipe = Recipe.of(recipe)
    if output is not None:
        check_output(Path(output), force)
    with opened_to_compress(model, minimum_deployment_target, skip_model_load) as program:
        if function is not None:
            program.function_name(function)  # raises where there is none of that name
        rewriter = rewriter_for(
            program,
            recipe,
            requantize=requantize,
            statistics=statistics,
            calibration=calibration,
            sequential=sequential,
            function=function,
            strict=strict,
            progress=progress,
        )
        return write_rewritten(program, rewriter, CompressedModel, output, force, progress)


def decompress(
    model: "str | os.PathLike[str] | MLModel",
    *,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    skip_model_load: bool | None = None,
) -> CompressedModel:
    """Store every compressed weight of a converted model densely again, in the type it decodes to.

    ``model``, ``output``, ``force`` and ``skip_model_load`` as for ``compress``.
    """
    return write_decompressed(open_program(model, skip_model_load), output, force)
