"""A legacy neural network as an ML Program, compressed if wanted."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import coremltools as ct

from milpasses import _coremltools as host
from milpasses.activations.fallback import Fallback
from milpasses.activations.measure import activations_of, repeatable
from milpasses.activations.parts import PartActivations, activations_of_parts
from milpasses.neuralnetwork.reader.model import Precision, Reading, read
from milpasses.neuralnetwork.sharing import share_constants
from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.program.model import CompressedModel, write_model
from milpasses.program.opset import activations_since, lowest_opset
from milpasses.program.package import Package, check_output, copy_weights, open_package
from milpasses.program.pipelines import SavedPipeline, is_pipeline, open_pipeline, submodels
from milpasses.program.saved import SavedProgram
from milpasses.program.sources import NETWORKS
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report
from milpasses.rewrite import Progress, Rewriter, rewriter_for, write_parts, write_rewritten


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
    part: str | None = None,
    strict: bool = False,
    statistics: Any = None,
    calibration: Any = None,
    sequential: bool = False,
    equalize: bool = True,
    fallback: Any = None,
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
        part: of a pipeline, this neural network alone. Every network of a pipeline that holds other models as
            well becomes an ML Program, and those stay as they are; of networks alone one program is made,
            unless ``part`` is given. A recipe is for what was upgraded.
        strict: a rule of the recipe that decides no weight is an error; nothing is written then.
        statistics, calibration, sequential, equalize, fallback: as in ``milpasses.compress``, of the
            upgraded program.
        output: the ``.mlpackage`` to write, all of it or nothing (``force`` replaces what is there);
            otherwise the model is in a temporary folder, and ``save`` keeps it.
        skip_model_load: ``MLModel``'s.
        progress: called as ``progress(done, total, name)`` for each weight that is compressed.

    Raises:
        NeuralNetworkError: as ``read``. TargetError: the recipe asks for what the target lacks.
        PackageError: the model cannot be read or written.
    """
    wanted, calibration = None if recipe is None else Recipe.of(recipe), repeatable(calibration)
    if precision not in ("float16", "float32"):
        raise NeuralNetworkError(f"precision is float16 or float32, not {precision!r}")
    if output is not None:
        check_output(Path(output), force, (model, calibration, statistics, recipe))
    target = minimum_deployment_target
    if target is None and wanted is not None:
        schemes = [wanted.default, *(rule.scheme for rule in wanted.rules)]
        lowest = lowest_opset(schemes)
        if wanted.wants_activations:
            lowest = max(lowest, activations_since(), key=lambda opset: opset.version)
        target = ct.target(lowest.version)
    options: dict[str, Any] = {
        "statistics": statistics, "calibration": calibration, "sequential": sequential, "strict": strict,
        "progress": progress,
    }  # fmt: skip
    asked: dict[str, Any] = {"equalize": equalize, "fallback": Fallback.of(fallback)}
    if part is not None or _is_mixed(model):
        if input_shapes is not None:
            raise NeuralNetworkError("input_shapes=: of a part of a pipeline the shapes are its own")
        with tempfile.TemporaryDirectory() as folder:
            upgraded, notes = _upgraded_parts(model, part, target, precision, Path(folder))
            place = Path(folder) / "activations"
            place.mkdir()
            return _write_parts(
                upgraded, notes, wanted, options, asked, output, force, skip_model_load, place
            )
    reading = read(model, target, input_shapes=input_shapes, precision=precision)

    def make(path: str, report: Report, **options: Any) -> UpgradedModel:
        return UpgradedModel(path, report, reading.notes, **options)

    with tempfile.TemporaryDirectory() as folder:
        program = SavedProgram(
            _package(reading, precision, Path(folder)), {"skip_model_load": skip_model_load}
        )
        if wanted is None:
            package, report = program.package, Report(recipe="none")
            loading = {"report": report, **program.load_options}
            return write_model(
                package, lambda folder: copy_weights(package, folder), make, output, force, **loading
            )
        plan = activations_of(program, wanted, statistics, calibration, Path(folder), strict=strict, **asked)
        rewriter = rewriter_for(plan.program, wanted, prepare=plan.prepare, **options)
        return write_rewritten(plan.program, rewriter, make, output, force, progress, plan.finish)


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


def _is_mixed(model: Any) -> bool:
    """Whether ``model`` is a pipeline of neural networks and other models."""
    if not is_pipeline(model):
        return False
    kinds = [leaf.kind in NETWORKS for leaf in open_pipeline(model).leaves()]
    return any(kinds) and not all(kinds)


def _upgraded_parts(
    model: Any, part: str | None, target: Any, precision: Precision, folder: Path
) -> tuple[SavedPipeline, list[str]]:
    """The pipeline with programs in the place of its networks (or of ``part``), and notes on them."""
    if not is_pipeline(model):
        raise NeuralNetworkError(f"part {part}: the model is no pipeline")
    pipeline = open_pipeline(model)
    leaves = {leaf.name: leaf for leaf in pipeline.leaves()}
    networks = [name for name, leaf in leaves.items() if leaf.kind in NETWORKS and part in (None, name)]
    if not networks:
        listed = ", ".join(f"{name} ({leaf.kind})" for name, leaf in leaves.items())
        raise NeuralNetworkError(f"part {part} is no neural network; the pipeline's parts are {listed}")
    raised: dict[str, SavedProgram] = {}
    notes: list[str] = []
    for index, name in enumerate(networks):
        reading = read(leaves[name].spec, target, precision=precision)
        before, after = (
            [feature.name for feature in (*description.input, *description.output)]
            for description in (leaves[name].spec.description, reading.description)
        )
        changed = sorted(set(before) - set(after))
        if changed:
            raise NeuralNetworkError(
                f"part {name}: '{changed[0]}' cannot be a name in an ML Program, and the pipeline passes "
                "values by it: rename it first (coremltools.utils.rename_feature)"
            )
        place = folder / str(index)
        place.mkdir()
        raised[name] = SavedProgram(_package(reading, precision, place))
        notes += [f"part {name}: {note}" for note in reading.notes]
    if not pipeline.package.path.is_dir():  # an .mlmodel, or in memory: the package is made here
        made = host.create_package(pipeline.spec, None, str(folder / "whole.mlpackage"))
        pipeline = open_pipeline(made)
    return attrs.evolve(pipeline, raised=raised), notes


def _write_parts(
    pipeline: SavedPipeline,
    notes: list[str],
    recipe: Recipe | None,
    options: dict[str, Any],
    asked: dict[str, Any],
    output: "str | os.PathLike[str] | None",
    force: bool,
    skip_model_load: bool,
    folder: Path,
) -> UpgradedModel:
    """Write the pipeline; with a ``recipe``, the programs that were networks compressed."""
    report = Report(recipe="none" if recipe is None else str(recipe), notes=[])
    rewriters: dict[str, Rewriter] = {}
    activations = PartActivations(pipeline)
    if recipe is not None:
        activations = activations_of_parts(
            pipeline, pipeline.raised, recipe, options["statistics"], options["calibration"], folder, **asked
        )
        pipeline = activations.pipeline
        report.notes += activations.notes
        rewriters = activations.rewriters(recipe, options)

    def finish(spec: Any) -> None:
        _follow(pipeline.spec, spec)
        if recipe is not None:
            activations.check_rules(recipe, report, bool(options["strict"]))

    def make(path: str, report: Report, **loading: Any) -> UpgradedModel:
        return UpgradedModel(path, report, notes, **loading)

    return write_parts(
        pipeline,
        rewriters,
        report,
        make,
        output,
        force,
        progress=options["progress"],
        finish=finish,
        finish_part=activations.finish,
        skip_model_load=skip_model_load,
    )


def _follow(before: Any, after: Any) -> None:
    """Give the features of a pipeline the types that its parts' features of that name and type now have."""
    pairs = list(zip(submodels(before), submodels(after), strict=True))
    for old, new in pairs:
        _follow(old, new)
    types = {
        (feature.name, feature.type.SerializeToString(deterministic=True)): changed.type
        for old, new in pairs
        for side in ("input", "output")
        for feature, changed in zip(
            getattr(old.description, side), getattr(new.description, side), strict=True
        )
    }
    for feature in (*after.description.input, *after.description.output) if pairs else ():
        known = types.get((feature.name, feature.type.SerializeToString(deterministic=True)))
        if known is not None:
            feature.type.CopyFrom(known)
