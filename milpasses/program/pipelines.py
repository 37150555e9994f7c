"""Pipeline models: models that run one after another and pass values by name.

The parts share the weight files of the package. Each ML Program among them is a ``SavedProgram`` like any
other; what is none is copied as it is.
"""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from coremltools.models import MLModel

from milpasses import _coremltools as host
from milpasses.errors import MilpassesError, PackageError, did_you_mean
from milpasses.program.opening import check_newer, open_program, raise_to_compress
from milpasses.program.package import Package, new_message, type_field
from milpasses.program.saved import SavedProgram
from milpasses.program.sources import PIPELINES, PROGRAM, Source, read_source
from milpasses.program.writer import SavedCopy, weight_files

_TYPE_FIELDS = (200, 201, 202)  # of Model_pb2.Model: pipelineClassifier, pipelineRegressor, pipeline


def models_of(spec: Any) -> Any:
    """The ``Pipeline`` message of a pipeline's specification (``models``, ``names``); None of another."""
    kind = spec.WhichOneof("Type")
    if kind == "pipeline":
        return spec.pipeline
    return getattr(spec, kind).pipeline if kind in PIPELINES else None


def submodels(spec: Any) -> list[Any]:
    """The models of a pipeline; none for any other model."""
    pipeline = models_of(spec)
    return [] if pipeline is None else list(pipeline.models)


@attrs.frozen(eq=False)
class Part:
    """A model of a pipeline.

    ``name``: as the pipeline names it, else ``part0``, ``part1``, ... ``spec``: its specification
    (``Model_pb2.Model``). ``program``: that of an ML Program. ``pipeline``: that of a nested pipeline.
    """

    name: str
    spec: Any
    program: SavedProgram | None = None
    pipeline: "SavedPipeline | None" = None

    @property
    def kind(self) -> str:
        """The model's type in the specification: ``mlProgram``, ``nonMaximumSuppression``."""
        return str(self.spec.WhichOneof("Type"))


@attrs.frozen(eq=False, slots=False)
class SavedPipeline:
    """A pipeline model in a package, opened once.

    ``load_options``: as ``SavedProgram``'s. ``raised``: programs that take the place of parts, by name.
    """

    package: Package
    load_options: dict[str, Any] = attrs.field(factory=dict)
    raised: Mapping[str, SavedProgram] = attrs.field(factory=dict)

    @property
    def spec(self) -> Any:
        """The specification, ``Model_pb2.Model``."""
        return self.package.spec

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The models of the pipeline, in order."""
        return tuple(map(self._part, part_names(self.spec), submodels(self.spec)))

    def _part(self, name: str, spec: Any) -> Part:
        package = attrs.evolve(self.package, spec=spec)  # the weight files are the same
        kind = spec.WhichOneof("Type")
        if name in self.raised:
            return Part(name, self.raised[name].spec, self.raised[name])
        if kind == PROGRAM:
            return Part(name, spec, SavedProgram(package, self.load_options))
        if kind not in PIPELINES:
            return Part(name, spec)
        inside = f"{name}/"
        raised = {
            path.removeprefix(inside): program
            for path, program in self.raised.items()
            if path.startswith(inside)
        }
        return Part(name, spec, None, SavedPipeline(package, self.load_options, raised))

    def leaves(self) -> list[Part]:
        """The parts that are no pipelines, in order; those of a nested one are named ``outer/part0``."""
        found: list[Part] = []
        for part in self.parts:
            if part.pipeline is None:
                found.append(part)
            else:
                inside = part.pipeline.leaves()
                found += [attrs.evolve(leaf, name=f"{part.name}/{leaf.name}") for leaf in inside]
        return found

    def programs(self, part: str | None = None) -> dict[str, SavedProgram]:
        """The ML Programs by name, or that of ``part`` alone.

        Raises ``PackageError`` where there is no such part, where it is none, and where no part is one.
        """
        leaves = {leaf.name: leaf for leaf in self.leaves()}
        found = {name: leaf.program for name, leaf in leaves.items() if leaf.program is not None}
        listed = ", ".join(f"{name} ({leaf.kind})" for name, leaf in leaves.items()) or "none"
        if not found:
            raise PackageError(f"{self.package.path}: no part of the pipeline is an ML Program: {listed}")
        if part is None:
            return found
        if part not in found:
            problem = f"not in the pipeline{did_you_mean(part, leaves)}"
            problem = "no ML Program" if part in leaves else problem
            raise PackageError(f"{self.package.path}: part {part} is {problem}; its parts are {listed}")
        return {part: found[part]}

    def write(
        self, folder: Path, rewrite: Callable[[str, SavedCopy], object], part: str | None = None
    ) -> Any:
        """Write the weight file of all parts under ``folder``; returns the specification that goes with it.

        ``rewrite`` is called with the name of each ML Program, or of ``part`` alone, and the copy of it whose
        weights it is to replace.
        """
        wanted = self.programs(part)
        spec = new_message("Model_pb2", "Model")
        spec.CopyFrom(self.spec)
        with weight_files(folder, joined=True) as files:
            for leaf, message in zip(self.leaves(), _leaf_messages(spec), strict=True):
                if leaf.program is None:
                    continue
                copy = SavedCopy(leaf.program, folder, files=files)
                if leaf.name in wanted:
                    rewrite(leaf.name, copy)
                else:
                    copy.replace([], lambda _: None)
                message.CopyFrom(copy.spec)
        _raise_versions(spec)
        return spec

    def copy(self, folder: Path) -> Any:
        """``write`` without changes: what ``raised`` holds is in its place, and equal weights are one."""
        return self.write(folder, lambda _, copy: copy.replace([], lambda _: None))


def part_names(spec: Any) -> list[str]:
    """The names of a pipeline's models: those that it gives, else ``part0``, ``part1``, ..."""
    pipeline = models_of(spec)
    if pipeline is None:
        return []
    names = [str(name) for name in pipeline.names]
    if len(names) == len(pipeline.models) == len(set(names)) and all(names):
        return names
    return [f"part{index}" for index in range(len(pipeline.models))]


def _leaf_messages(spec: Any) -> Iterator[Any]:
    for model in submodels(spec):
        if models_of(model) is None:
            yield model
        else:
            yield from _leaf_messages(model)


def _raise_versions(spec: Any) -> None:
    """A pipeline is of the newest specification version among its models."""
    for model in submodels(spec):
        _raise_versions(model)
        spec.specificationVersion = max(spec.specificationVersion, model.specificationVersion)


def is_pipeline(model: Any) -> bool:
    """Whether ``model`` (a path, an ``MLModel``, a specification, or one that is open) is a pipeline."""
    if isinstance(model, SavedPipeline):
        return True
    if isinstance(model, Source):
        return model.kind in PIPELINES
    if isinstance(model, str | os.PathLike):
        return type_field(Path(model)) in _TYPE_FIELDS
    spec = model if hasattr(model, "specificationVersion") else host.spec_of(model)
    return spec is not None and spec.WhichOneof("Type") in PIPELINES


def open_pipeline(model: Any, skip_model_load: bool | None = None) -> SavedPipeline:
    """The pipeline behind ``model``: a path, an ``MLModel``, a specification (without weights), a ``Source``.

    ``skip_model_load`` as for ``open_program``. Raises ``PackageError``.
    """
    if isinstance(model, SavedPipeline):
        return model
    source = read_source(model)
    if source.kind not in PIPELINES:
        raise PackageError(f"{source.label}: a pipeline is needed, and this is of type {source.kind}")
    options: dict[str, Any] = {"skip_model_load": True if skip_model_load is None else skip_model_load}
    if isinstance(model, MLModel):
        if skip_model_load is None:
            options["skip_model_load"] = not host.is_loaded(model)
        options["compute_units"] = model.compute_unit
    return SavedPipeline(_package(source), options)


def _package(source: Source) -> Package:
    """The package of a pipeline; one in a single file, or in memory alone, has no weight files."""
    path = source.path or Path("pipeline")
    return Package(path, source.spec, source.spec_path or path)


@contextmanager
def opened_parts(
    model: Any, target: Any = None, part: str | None = None, skip_model_load: bool | None = None
) -> Generator[tuple[SavedPipeline | None, dict[str, SavedProgram]]]:
    """What of ``model`` is compressed: the ML Programs of a pipeline, or that of ``part`` alone, by name.

    Of a model that is no pipeline itself, under the name ``""``, and None for the pipeline. Each program is
    raised as by ``raise_to_compress``, in folders that go at the end of the context; the pipeline has them.
    Raises ``MilpassesError`` where ``part`` is asked of a model that is no pipeline.
    """
    pipeline = None
    if is_pipeline(model):
        pipeline = open_pipeline(model, skip_model_load)
        programs = pipeline.programs(part)
    elif part is not None:
        raise MilpassesError(f"part {part}: the model is no pipeline")
    else:
        programs = {"": open_program(model, skip_model_load)}
    if target is not None:
        check_newer(programs.values(), target)
    with tempfile.TemporaryDirectory() as folder:
        raised: dict[str, SavedProgram] = {}
        for index, (name, program) in enumerate(programs.items()):
            place = Path(folder) / str(index)
            place.mkdir()
            raised[name] = raise_to_compress(program, target, place)
        yield (None if pipeline is None else attrs.evolve(pipeline, raised=raised)), raised


def check_one_function(pipeline: SavedPipeline | None, function: str | None) -> None:
    """Raise ``MilpassesError`` where a function is asked of a pipeline, whose parts have one each."""
    if pipeline is not None and function is not None:
        raise MilpassesError(f"function {function}: the parts of a pipeline have one function each")
