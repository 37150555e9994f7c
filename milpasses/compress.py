"""The second door: a model that is converted already, to a compressed one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from coremltools.models import MLModel

from milpasses.calibration import KnownStatistics, OnlineStatistics, StatisticsSource
from milpasses.calibration.biases import Rewriting
from milpasses.data.norms import NORMS, is_norms
from milpasses.encoding.lowering import OpSpec
from milpasses.errors import MilpassesError, TargetError
from milpasses.program.model import CompressedModel, write_model
from milpasses.program.opening import open_model, raise_target
from milpasses.program.package import Package, check_output
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site
from milpasses.program.writer import ProgramWriter
from milpasses.recipe.recipe import Recipe
from milpasses.report import METADATA_KEY, Report
from milpasses.rewrite import Rewriter, decompressed

Progress = Callable[[int, int, str], None]


def compress(
    model: "str | os.PathLike[str] | MLModel",
    recipe: Any,
    *,
    output: "str | os.PathLike[str] | None" = None,
    requantize: bool = False,
    statistics: Any = None,
    calibration: Any = None,
    sequential: bool = False,
    minimum_deployment_target: Any = None,
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

    ``requantize`` compresses anew what is compressed already. ``minimum_deployment_target`` raises an older
    model first. ``progress(done, total, name)`` is called for each weight, and for each sample that is run.
    ``skip_model_load`` is ``MLModel``'s; by default a path is not loaded into Core ML and a model as it was.

    Returns a ``CompressedModel``, which keeps the ``report``. Raises ``MilpassesError``.
    """
    package, options = open_model(model, skip_model_load)
    recipe = Recipe.of(recipe)
    if output is not None:
        check_output(Path(output), force)
    with tempfile.TemporaryDirectory() as raised_folder:
        if minimum_deployment_target is not None:
            package = raise_target(package, minimum_deployment_target, Path(raised_folder))
        rewriter = Rewriter(recipe, SavedProgram(package).target, requantize=requantize)
        source = _source(package, rewriter, statistics, calibration, sequential, progress)
        rewriter = attrs.evolve(rewriter, calibration=source)
        return rewrite_package(package, rewriter, output, force, progress, options)


def _source(
    package: Package,
    rewriter: Rewriter,
    statistics: Any,
    calibration: Any,
    sequential: bool,
    progress: Progress | None,
) -> StatisticsSource | None:
    """Where to learn what flows into the weights that the recipe would calibrate."""
    if statistics is not None and calibration is not None:
        raise MilpassesError("statistics and calibration: give one of the two")
    if sequential and (calibration is None or is_norms(calibration)):
        raise MilpassesError(
            "sequential: only with calibration=data, which the model is run on again and again"
        )
    if statistics is None and calibration is None:
        return None
    if is_norms(calibration) or is_norms(statistics):
        from milpasses.data.collect import statistics as learnt

        return KnownStatistics(learnt(str(package.path), NORMS))
    sites = [one for one in SavedProgram(package).sites() if rewriter.calibrates(one)]
    if statistics is not None:
        given = KnownStatistics(statistics)
        given.check([one.weight for one in sites])
        return given
    weights = [(one.weight, [variable for _, variable in one.places]) for one in sites]

    def shown(done: int, total: int | None, name: str) -> None:
        if progress is not None:
            progress(done, total or done, f"running {name}")

    biases = [
        (one.weight, [variable for _, variable in one.places])
        for one in SavedProgram(package).sites()
        if one.weight.rank == 1
    ]
    return OnlineStatistics(
        str(package.path), calibration, weights, biases=biases, sequential=sequential, progress=shown
    )


def rewrite_package(
    package: Package,
    rewriter: Rewriter,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    progress: Progress | None = None,
    options: dict[str, Any] | None = None,
) -> CompressedModel:
    """Apply ``rewriter`` to every weight of ``package`` and write the result; the work of ``compress``."""
    program = SavedProgram(package)
    if len({function.target.generation for function in program.functions}) > 1:
        raise TargetError(
            f"{package.path}: its functions target both sides of iOS18; "
            "pass minimum_deployment_target=ct.target.iOS18"
        )
    sites = program.sites()

    rewriter.check(sites)
    rewriting = Rewriting(rewriter, sites)
    report = Report(recipe=str(rewriter.recipe))
    total = len(sites)

    def rewrite(one: Site) -> list[OpSpec] | None:
        rewritten = rewriting.rewrite(one)
        report.records.append(rewritten.record)
        if progress is not None:
            progress(len(report.records), total, one.weight.name)
        return rewritten.specs

    def write_weights(folder: Path) -> Any:
        spec = ProgramWriter(program, folder, rewrite, sites).write()
        spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
        return spec

    return write_model(package, write_weights, report, output, force, options or {})


def decompress(
    model: "str | os.PathLike[str] | MLModel",
    *,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    skip_model_load: bool | None = None,
) -> CompressedModel:
    """Store every compressed weight of a converted model densely again, in the type it decodes to."""
    package, options = open_model(model, skip_model_load)
    program = SavedProgram(package)
    sites = [one for one in program.sites() if one.existing is not None]
    report = Report(recipe="decompress")

    def rewrite(one: Site) -> list[OpSpec]:
        rewritten = decompressed(one)
        report.records.append(rewritten.record)
        return rewritten.specs or []

    def write_weights(folder: Path) -> Any:
        spec = ProgramWriter(program, folder, rewrite, sites).write()
        spec.description.metadata.userDefined.pop(METADATA_KEY, None)
        return spec

    return write_model(package, write_weights, report, output, force, options)
