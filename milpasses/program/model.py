"""A compressed model: what the entry points return, in a package that was written whole."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from coremltools.models import MLModel

from milpasses import _coremltools as host
from milpasses.program.package import Package, write_package
from milpasses.report import Report, abridged


class CompressedModel(MLModel):
    """An ``MLModel`` that knows its ``report``; its program in memory is read only when somebody asks."""

    def __init__(self, package_path: str, report: Report, **options: Any) -> None:
        self._program: Any = None
        super().__init__(package_path, **options)
        self.report = report

    def __repr__(self) -> str:
        return f"<CompressedModel: {self.report.summary()}, by {abridged(self.report.recipe)}>"

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    @property
    def _mil_program(self) -> Any:
        """coremltools' in-memory program, as its own functions leave it on the models they return."""
        spec = getattr(self, "_spec", None)
        if self._program is None and spec is not None and spec.WhichOneof("Type") == "mlProgram":
            self._program = host.load_program(spec, spec.specificationVersion, self.weights_dir or "")
        return self._program

    @_mil_program.setter
    def _mil_program(self, program: Any) -> None:
        self._program = program


Model = TypeVar("Model", bound=CompressedModel)


def write_model(
    package: Package,
    write_weights: Callable[[Path], Any],
    make: Callable[..., Model],
    output: "str | os.PathLike[str] | None",
    force: bool,
    **options: Any,
) -> Model:
    """Write ``package`` with other weights, and open the result as ``make(path, **options)``.

    ``write_weights``, ``output`` and ``force`` are those of ``write_package``; without ``output`` the package
    goes to a temporary folder that coremltools removes at exit.
    """
    if output is not None:
        write_package(package, Path(output), write_weights, force)
        return make(str(output), **options)
    path = Path(tempfile.mkdtemp(prefix="milpasses-")) / "model.mlpackage"
    try:
        write_package(package, path, write_weights)
    except BaseException:
        path.parent.rmdir()
        raise
    published = Path(tempfile.mkdtemp(suffix=".mlpackage"))
    published.rmdir()
    path.rename(
        published
    )  # coremltools removes the package at exit, so it must stand in no folder of its own
    path.parent.rmdir()
    return make(str(published), is_temp_package=True, **options)
