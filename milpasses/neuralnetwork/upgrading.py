"""A legacy neural network as an ML Program, compressed if wanted."""

import logging
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil.converter import ConverterRegistry, mil_convert_to_proto
from coremltools.converters.mil.mil.passes import pass_pipeline
from coremltools.models.utils import _create_mlpackage

from milpasses.compress import Progress, compress
from milpasses.neuralnetwork.reader.model import Precision, Reading, read
from milpasses.neuralnetwork.sharing import share_constants
from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.program.model import CompressedModel
from milpasses.program.opset import lowest_opset
from milpasses.program.package import Package, check_output, open_package, write_package
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report


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
        model: the path of an ``.mlmodel``, a coremltools ``MLModel``, or its specification.
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
        check_output(Path(output), force)
    target = minimum_deployment_target
    if target is None and wanted is not None:
        schemes = [wanted.default, *(rule.scheme for rule in wanted.rules)]
        target = ct.target(lowest_opset(schemes).version)
    reading = read(model, target, input_shapes=input_shapes, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        package = _package(reading, precision, Path(folder))
        report = Report(recipe="none")
        if wanted is not None:
            small = Path(folder) / "small.mlpackage"
            report = compress(
                package.path,
                wanted,
                output=small,
                statistics=statistics,
                calibration=calibration,
                sequential=sequential,
                progress=progress,
            ).report
            package = open_package(small)
        return _finished(package, report, reading.notes, output, force, skip_model_load)


def _package(reading: Reading, precision: Precision, folder: Path) -> Package:
    """The reading as a package under ``folder``, after coremltools' passes."""
    passes: Any = pass_pipeline.PassPipeline.DEFAULT
    if precision == "float32":
        passes.remove_passes({"common::add_fp16_cast", "common::add_int16_cast"})
    else:  # the pass cannot look at a list of class labels
        passes.set_options("common::add_fp16_cast", {"skip_ops_by_type": "classify"})
    weights = folder / "weights"
    weights.mkdir()
    with _quietly():
        converted: Any = mil_convert_to_proto(
            reading.program,
            "milinternal",
            "mlprogram",
            ConverterRegistry,
            main_pipeline=passes,
            weights_dir=str(weights),
            specification_version=int(reading.target),
            model_description=reading.description,
        )
    share_constants(converted[0].mlProgram)
    return open_package(_create_mlpackage(converted[0], str(weights), str(folder / "model.mlpackage")))


@contextmanager
def _quietly() -> Generator[None]:
    """Without coremltools' bars and notices."""
    logger, bars = logging.getLogger("coremltools"), pass_pipeline.tqdm
    level = logger.level

    def plain(items: Iterable[str], **_: Any) -> Iterable[str]:
        return items

    logger.setLevel(logging.ERROR)
    pass_pipeline.tqdm = plain
    try:
        yield
    finally:
        pass_pipeline.tqdm = bars
        logger.setLevel(level)


def _finished(
    package: Package,
    report: Report,
    notes: list[str],
    output: "str | os.PathLike[str] | None",
    force: bool,
    skip_model_load: bool,
) -> UpgradedModel:
    if output is not None:
        write_package(package, Path(output), lambda folder: _copied(package, folder), force)
        return UpgradedModel(str(output), report, notes, skip_model_load=skip_model_load)
    final = Path(tempfile.mkdtemp(suffix=".mlpackage"))  # coremltools removes it at exit
    shutil.copytree(package.path, final, dirs_exist_ok=True)
    return UpgradedModel(str(final), report, notes, is_temp_package=True, skip_model_load=skip_model_load)


def _copied(package: Package, folder: Path) -> Any:
    """The weight files of ``package`` under ``folder``, and its specification."""
    weights = package.model_folder / "weights"
    if weights.is_dir():
        shutil.copytree(weights, folder / "weights", dirs_exist_ok=True)
    return package.spec
