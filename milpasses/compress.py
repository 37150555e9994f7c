"""The second door: a model that is converted already, to a compressed one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from coremltools.models import MLModel

from milpasses.calibration import NORMS, Given, Live, Source, is_norms
from milpasses.calibration.biases import Rewriting
from milpasses.encoding.lowering import OpSpec
from milpasses.errors import MilpassesError, PackageError, TargetError
from milpasses.program.package import Package, check_output, open_package, write_package
from milpasses.program.saved import MLProgram, Placed
from milpasses.program.writer import ProgramWriter
from milpasses.recipe.recipe import Recipe
from milpasses.report import METADATA_KEY, Report
from milpasses.rewrite import Rewriter, decompressed

Progress = Callable[[int, int, str], None]


class CompressedModel(MLModel):
    """An ``MLModel`` that knows its ``report``; its program in memory is read only when somebody asks."""

    def __init__(self, package_path: str, report: Report, **options: Any) -> None:
        self._program: Any = None
        super().__init__(package_path, **options)
        self.report = report

    @property
    def _mil_program(self) -> Any:
        """coremltools' in-memory program, as its own functions leave it on the models they return."""
        if self._program is None and getattr(self, "_spec", None) is not None:
            from coremltools.converters.mil.frontend.milproto.load import load

            self._program = load(self._spec, self._spec.specificationVersion, self.weights_dir or "")
        return self._program

    @_mil_program.setter
    def _mil_program(self, program: Any) -> None:
        self._program = program


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
        rewriter = Rewriter(recipe, MLProgram(package).target, requantize=requantize)
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
) -> Source | None:
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

        return Given(learnt(str(package.path), NORMS))
    placed = [one for one in MLProgram(package).sites() if rewriter.calibrates(one.site)]
    if statistics is not None:
        given = Given(statistics)
        given.check([one.site.weight for one in placed])
        return given
    weights = [(one.site.weight, [variable for _, variable in one.places]) for one in placed]

    def shown(done: int, total: int | None, name: str) -> None:
        if progress is not None:
            progress(done, total or done, f"running {name}")

    biases = [
        (one.site.weight, [variable for _, variable in one.places])
        for one in MLProgram(package).sites()
        if one.site.weight.rank == 1
    ]
    return Live(str(package.path), calibration, weights, biases=biases, sequential=sequential, progress=shown)


def rewrite_package(
    package: Package,
    rewriter: Rewriter,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    progress: Progress | None = None,
    options: dict[str, Any] | None = None,
) -> CompressedModel:
    """Apply ``rewriter`` to every weight of ``package`` and write the result; the work of ``compress``."""
    program = MLProgram(package)
    if len({function.target.ios18 for function in program.functions}) > 1:
        raise TargetError(
            f"{package.path}: its functions target both sides of iOS18; "
            "pass minimum_deployment_target=ct.target.iOS18"
        )
    placed = program.sites()
    sites = [one.site for one in placed]
    rewriter.check(sites)
    rewriting = Rewriting(rewriter, sites)
    report = Report(recipe=str(rewriter.recipe))
    total = len(placed)

    def rewrite(one: Placed) -> list[OpSpec] | None:
        rewritten = rewriting.rewrite(one.site)
        report.records.append(rewritten.record)
        if progress is not None:
            progress(len(report.records), total, one.site.weight.name)
        return rewritten.specs

    def write_weights(folder: Path) -> Any:
        spec = ProgramWriter(program, folder, rewrite, placed).write()
        spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
        return spec

    return _written(package, write_weights, report, output, force, options or {})


def decompress(
    model: "str | os.PathLike[str] | MLModel",
    *,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    skip_model_load: bool | None = None,
) -> CompressedModel:
    """Store every compressed weight of a converted model densely again, in the type it decodes to."""
    package, options = open_model(model, skip_model_load)
    program = MLProgram(package)
    placed = [one for one in program.sites() if one.site.existing is not None]
    report = Report(recipe="decompress")

    def rewrite(one: Placed) -> list[OpSpec]:
        rewritten = decompressed(one.site)
        report.records.append(rewritten.record)
        return rewritten.specs or []

    def write_weights(folder: Path) -> Any:
        spec = ProgramWriter(program, folder, rewrite, placed).write()
        spec.description.metadata.userDefined.pop(METADATA_KEY, None)
        return spec

    return _written(package, write_weights, report, output, force, options)


def _written(
    package: Package,
    write_weights: Callable[[Path], Any],
    report: Report,
    output: "str | os.PathLike[str] | None",
    force: bool,
    options: dict[str, Any],
) -> CompressedModel:
    if output is not None:
        write_package(package, Path(output), write_weights, force)
        return CompressedModel(str(output), report, **options)
    path = Path(tempfile.mkdtemp(prefix="milpasses-")) / "model.mlpackage"
    try:
        write_package(package, path, write_weights)
    except BaseException:
        path.parent.rmdir()
        raise
    final = Path(tempfile.mkdtemp(suffix=".mlpackage"))
    final.rmdir()
    path.rename(final)  # coremltools removes the package at exit, so it must stand in no folder of its own
    path.parent.rmdir()
    return CompressedModel(str(final), report, is_temp_package=True, **options)


def open_model(model: Any, skip_model_load: bool | None) -> tuple[Package, dict[str, Any]]:
    """The package behind ``model``, and how to load the result as the model was loaded."""
    if isinstance(model, MLModel):
        if not model.is_package or model.package_path is None:
            raise PackageError(
                "the model is no .mlpackage: an ML Program is needed "
                "(milpasses upgrade makes one of a legacy .mlmodel)"
            )
        skip = model.__proxy__ is None if skip_model_load is None else skip_model_load
        package = open_package(model.package_path, spec=model.get_spec())
        options = {"skip_model_load": skip, "compute_units": model.compute_unit}
        return package, options
    return open_package(model), {"skip_model_load": True if skip_model_load is None else skip_model_load}


def raise_target(package: Package, target: Any, folder: Path) -> Package:
    """``package`` for a newer ``target``, written under ``folder``; the same package if it is new enough.

    Each op is built again in the newer opset by coremltools' own loader, which checks that the op still means
    what it did, and written by its own exporter. No pass runs.
    """
    from coremltools.converters.mil.backend.mil.load import load as to_proto
    from coremltools.converters.mil.frontend.milproto.load import load as to_program
    from coremltools.models.utils import _create_mlpackage

    version = int(target)
    if package.spec.specificationVersion >= version and MLProgram(package).target.version >= version:
        return package
    weights = package.model_folder / "weights"
    try:
        program = to_program(package.spec, version, str(weights) if weights.is_dir() else "")
        written = folder / "weights"
        written.mkdir()
        spec = to_proto(
            program, str(written), specification_version=version, model_description=package.spec.description
        )
    except Exception as error:
        name = getattr(target, "name", target)
        raise TargetError(f"{package.path}: cannot be raised to {name}: {error}") from error
    raised = _create_mlpackage(spec, str(written), str(folder / "raised.mlpackage"))
    return open_package(raised)
