"""Opening whatever a person names as a model, to look at it: packages, and legacy networks by the reader."""

from pathlib import Path
from typing import Any

from milpasses.program.package import Package


def open_readable(model: Any) -> Package:
    """The package of an ML Program, or of what the reader makes of a legacy network.

    A legacy network (an ``.mlmodel``, one inside an ``.mlpackage``, or a loaded one) becomes a float32 ML
    Program in a temporary folder that goes with the process; the model itself is not touched.

    Raises ``MilpassesError`` with what is wrong with the file.
    """
    from milpasses.program.opening import open_program
    from milpasses.program.sources import read_source

    if isinstance(model, Package):
        return model
    source = read_source(model)
    if not source.is_network:
        return open_program(source).package
    from milpasses.neuralnetwork.upgrading import upgrade

    return open_program(upgrade(source, precision="float32")).package


def is_network(path: Path) -> bool:
    """Whether the model at ``path`` is a legacy network: an ``.mlmodel``, or one inside an ``.mlpackage``."""
    from milpasses.program.sources import read_source

    return path.suffix.lower() == ".mlmodel" or read_source(path).is_network
