"""A legacy neural network as an ML Program, compressed if wanted."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct

from milpasses import _coremltools as host
from milpasses.neuralnetwork.reader.model import Precision, Reading, read
from milpasses.neuralnetwork.sharing import share_constants
from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.program.model import CompressedModel, write_model
from milpasses.program.opset import lowest_opset
from milpasses.program.package import Package, check_output, open_package
from milpasses.program.saved import SavedProgram
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report
from milpasses.rewrite import Progress, rewriter_for, write_rewritten


class UpgradedModel(CompressedModel):
    """An ML Program made of a legacy network, with its ``report`` and ``notes``.

    ``notes`` says what is not as it was in the legacy model, a line each.
    """

    def __init__(self, package_path: str, report: Report, notes: list[str], **options: Any) -> None:
        super().__init__(package_path, report, **options)
        self.notes = notes


def upgrade(
    model: Any,
    recipe: Any = None,
    minimum_deployment_target: Any = None,
    *,
    precision: Precision = "float16",
    input_shapes: Mapping[str, Any] | None = None,
    statistics: Any = None,
    calibration: Any = None,
    sequential: bool = False,
    output: "str | os.PathLike[str] | None" = None,
    force: bool = False,
    skip_model_load: bool = True,
    progress: Progress | None = None,
) -> UpgradedModel:
    """Turn a legacy Core ML neural network into an ML Program.

    Inputs, outputs, image types, class labels, texts and metadata stay; quantized weights keep their codes.
    coremltools' own passes fuse ops and bring the program to ``precision``.

    Args:
        model: as in ``read``: the path of an ``.mlmodel`` or ``.mlpackage``, an ``MLModel``, a
            specification.
        recipe: what each weight becomes, as ``milpasses.compress`` takes it; None leaves them as they are.
        minimum_deployment_target: iOS16 or later; by default the lowest that holds every quantized weight
            and every scheme of the recipe.
        precision: ``float16`` or ``float32``, of the arithmetic and the weights.
        input_shapes: as in ``read``.
        statistics, calibration, sequential: as in ``milpasses.compress``, of the upgraded program.
        output: the ``.mlpackage`` to write, all of it or nothing (``force`` replaces what is there);
            otherwise the model is in a temporary folder, and ``save`` keeps it.
        skip_model_load: ``MLModel``'s.
        progress: called as ``progress(done, total, name)`` for each weight that is compressed.

    Raises:
        NeuralNetworkError: as ``read``. TargetError: the recipe asks for what the target lacks.
        PackageError: the model cannot be read or written.
    """
    wanted = None if recipe is None else Recipe.of(recipe)
    if precision not in ("float16", "float32"):
        raise NeuralNetworkError(f"precision is float16 or float32, not {precision!r}")
    if output is not None:
        check_output(Path(output), force, (model, calibration, statistics, recipe))
    target = minimum_deployment_target
    if target is None and wanted is not None:
        schemes = [wanted.default, *(rule.scheme for rule in wanted.rules)]
        target = ct.target(lowest_opset(schemes).version)
    reading = read(model, target, input_shapes=input_shapes, precision=precision)

    def make(path: str, report: Report, **options: Any) -> UpgradedModel:
        return UpgradedModel(path, report, reading.notes, **options)

    with tempfile.TemporaryDirectory() as folder:
        program = SavedProgram(
            _package(reading, precision, Path(folder)), {"skip_model_load": skip_model_load}
        )
        if wanted is None:
            package, report = program.package, Report(recipe="none")
            options = {"report": report, **program.load_options}
            return write_model(
                package, lambda folder: _copied(package, folder), make, output, force, **options
            )
        rewriter = rewriter_for(
            program,
            wanted,
            statistics=statistics,
            calibration=calibration,
            sequential=sequential,
            progress=progress,
        )
        return write_rewritten(program, rewriter, make, output, force, progress)


def _package(reading: Reading, precision: Precision, folder: Path) -> Package:
    """The reading as a package under ``folder``, after coremltools' passes."""
    passes: Any = ct.PassPipeline.DEFAULT
    if precision == "float32":
        passes.remove_passes({"common::add_fp16_cast", "common::add_int16_cast"})
    else:  # the pass cannot look at a list of class labels
        passes.set_options("common::add_fp16_cast", {"skip_ops_by_type": "classify"})
    weights = folder / "weights"
    weights.mkdir()
    with host.quiet_conversion():
        spec = host.convert_program(
            reading.program, passes, str(weights), int(reading.target), reading.description
        )
    share_constants(spec.mlProgram)
    return open_package(host.create_package(spec, str(weights), str(folder / "model.mlpackage")))


def _copied(package: Package, folder: Path) -> Any:
    """The weight files of ``package`` under ``folder``, and its specification."""
    weights = package.model_folder / "weights"
    if weights.is_dir():
        shutil.copytree(weights, folder / "weights", dirs_exist_ok=True)
    return package.spec
