"""Opening whatever a person names as a model, to look at it: packages, and legacy networks by the reader."""

from typing import Any

from milpasses.program.package import Package


def open_readable(model: Any) -> Package:
    """The package of an ML Program, or of what the reader makes of a legacy network.

    A legacy network (a path that ends in ``.mlmodel``, or a loaded one) becomes a float32 ML Program in a
    temporary folder that goes with the process; the model itself is not touched.

    Raises ``MilpassesError`` with what is wrong with the file.
    """
    from milpasses.neuralnetwork.spec.legacy_model import is_legacy
    from milpasses.program.opening import open_program

    if is_legacy(model):
        from milpasses.neuralnetwork.upgrading import upgrade

        model = upgrade(model, precision="float32")
    return open_program(model).package
