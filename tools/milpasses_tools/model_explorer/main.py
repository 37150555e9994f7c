"""The adapter: ML Programs, and legacy networks as they read in MIL."""

from pathlib import Path
from typing import Any

from model_explorer import Adapter, AdapterMetadata  # pyright: ignore[reportMissingImports]
from model_explorer.graph_builder import GraphCollection  # pyright: ignore[reportMissingImports]

from milpasses.errors import PackageError
from milpasses.program.sources import PROGRAM, program_needed, read_source
from milpasses_tools._view.model_explorer import graph_collection
from milpasses_tools._view.view import view


class CoreMLAdapter(Adapter):  # pyright: ignore[reportUntypedBaseClass]
    """Shows each function of a model as a graph; weights are coloured by their bits, and tell their error.

    A package is a folder, which Model Explorer opens by its path, on the command line or typed into the
    page; the page's file dialog uploads single files: legacy networks.
    """

    metadata = AdapterMetadata(
        id="milpasses",
        name="Core ML (milpasses)",
        description="Core ML packages and legacy networks: form, bits, bytes and error of each weight.",
        fileExts=["mlpackage", "mlmodel"],
    )

    def convert(self, model_path: str, settings: dict[str, Any]) -> dict[str, list[Any]]:
        """The graphs of the model at ``model_path``; raises ``MilpassesError``, which the page shows."""
        content = graph_collection(view(package_of(Path(model_path))))
        return {"graphCollections": [GraphCollection(content["label"], content["graphs"])]}


def package_of(path: Path) -> Path:
    """The package that the file ``path`` is in, else ``path``; raises ``PackageError``.

    An ML Program's file by itself, as the page uploads it, has lost its weights.
    """
    package = next((folder for folder in path.parents if folder.suffix == ".mlpackage"), path)
    if package.suffix == ".mlmodel":
        source = read_source(package)
        if source.kind == PROGRAM:
            raise PackageError(program_needed(source))
    return package
