"""Whatever stands for a saved model, as the package behind it; and a package raised to a newer target."""

from pathlib import Path
from typing import Any

from coremltools.models import MLModel

from milpasses.errors import PackageError, TargetError
from milpasses.program.package import Package, open_package
from milpasses.program.saved import SavedProgram


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
    if package.spec.specificationVersion >= version and SavedProgram(package).target.version >= version:
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
