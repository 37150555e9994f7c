"""Whatever stands for a saved model, opened once; and a program raised to a newer target."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coremltools.models import MLModel

from milpasses import _coremltools as host
from milpasses.errors import PackageError, TargetError
from milpasses.program.opset import Opset, compressible, opset_of, raised_note
from milpasses.program.package import Package, open_package, package_of
from milpasses.program.saved import SavedProgram
from milpasses.program.sources import program_needed, read_source


def open_program(model: Any, skip_model_load: bool | None = None) -> SavedProgram:
    """The program behind ``model``: a path, an ``MLModel``, or a ``SavedProgram``, which is opened already.

    A ``Source`` or a ``Package`` will do, too: one that was read already.

    Of an ``MLModel`` what counts is its specification, with what the caller changed in it, and the weight
    files of its package. ``load_options`` of the result say how to load a model as this one was;
    ``skip_model_load`` overrides that. Raises ``PackageError``.
    """
    if isinstance(model, SavedProgram):
        return model
    if isinstance(model, Package):
        return SavedProgram(model)
    if isinstance(model, MLModel):
        if not model.is_package or model.package_path is None:
            raise PackageError(program_needed(read_source(model)))
        skip = not host.is_loaded(model) if skip_model_load is None else skip_model_load
        package = open_package(model.package_path, spec=model.get_spec())
        return SavedProgram(package, {"skip_model_load": skip, "compute_units": model.compute_unit}, model)
    skip = True if skip_model_load is None else skip_model_load
    by_path = isinstance(model, str | os.PathLike)
    package = open_package(model) if by_path else package_of(read_source(model))
    return SavedProgram(package, {"skip_model_load": skip})


def raise_to_compress(program: SavedProgram, target: Any, folder: Path) -> SavedProgram:
    """``program`` raised to ``target``, if one is given, and at least to the oldest with compressed weights.

    As coremltools' own functions do it; where nobody asked for the target, ``notes`` of the result say so.
    A program whose functions have several targets is raised to the newest of them.
    """
    if target is not None:
        program = raise_target(program, target, folder)
    old = program.target
    oldest = compressible(old)
    if oldest is old:
        return program
    versions = [program.spec.specificationVersion, *(one.target.version for one in program.functions)]
    new = opset_of(max(oldest.version, *versions))
    inside = folder / "compressible"
    inside.mkdir()
    raised = _raised(program, new.version, new.name, inside)
    return SavedProgram(raised.package, raised.load_options, notes=(*program.notes, raised_note(old, new)))


def check_newer(programs: Iterable[SavedProgram], target: Any) -> None:
    """Raise ``TargetError`` where every one of ``programs`` is for a newer target than ``target``.

    A program cannot be lowered: its ops may not be there, and what was to be raised stays as it is.
    """
    version = target.version if isinstance(target, Opset) else int(target)
    targets = [program.target for program in programs]
    if targets and all(own.version > version for own in targets):
        oldest = min(targets, key=lambda own: own.version)
        name = str(getattr(target, "name", target))
        raise TargetError(
            f"minimum_deployment_target=ct.target.{name}: the model is for {oldest.name} already, and a "
            f"model cannot be lowered: convert it anew for {name}, or leave the target out"
        )


def raise_target(program: SavedProgram, target: Any, folder: Path) -> SavedProgram:
    """``program`` for a newer ``target``, written under ``folder``; the same program if it is new enough.

    ``target`` is one of coremltools' (``ct.target.iOS18``) or an ``Opset``. Each op is built again in the
    newer opset by coremltools' own loader, which checks that the op still means what it did, and written by
    its own exporter. No pass runs.
    """
    version = target.version if isinstance(target, Opset) else int(target)
    package = program.package
    name = str(getattr(target, "name", target))
    if package.spec.specificationVersion >= version and program.target.version >= version:
        return program
    return _raised(program, version, name, folder)


def _raised(program: SavedProgram, version: int, name: str, folder: Path) -> SavedProgram:
    package = program.package
    weights = package.model_folder / "weights"
    try:
        raised = host.load_program(package.spec, version, str(weights) if weights.is_dir() else "")
        written = folder / "weights"
        written.mkdir()
        spec = host.program_to_spec(raised, str(written), version, package.spec.description)
    except Exception as error:
        raise TargetError(f"{package.path}: cannot be raised to {name}: {error}") from error
    path = host.create_package(spec, str(written), str(folder / "raised.mlpackage"))
    return SavedProgram(open_package(path), program.load_options, notes=program.notes)
