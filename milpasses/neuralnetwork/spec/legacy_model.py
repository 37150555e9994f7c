"""Opening a legacy model, from a file, a package or memory, and which networks it holds."""

from collections.abc import Iterator
from typing import Any

import attrs

from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.neuralnetwork.spec.networks import submodels
from milpasses.program.sources import NETWORKS, PIPELINES, PROGRAM, read_source


@attrs.frozen(eq=False)
class LegacyModel:
    """A legacy model that has been read: its specification (``Model_pb2.Model``) and its kind.

    ``label`` names it in messages: its path, or what it is.
    """

    spec: Any
    label: str

    @property
    def kind(self) -> str:
        """The model's type in the specification: ``neuralNetworkClassifier``."""
        return self.spec.WhichOneof("Type")


def open_legacy_model(model: Any) -> LegacyModel:
    """Read a legacy model.

    Args:
        model: the path of an ``.mlmodel`` or ``.mlpackage``, a coremltools ``MLModel``, its specification,
            or a ``Source``.

    Raises:
        NeuralNetworkError: no neural network, or no pipeline of them; what it is and what to do is said.
        PackageError: the file is missing, damaged, truncated or encrypted, or no model of Core ML.
    """
    source = read_source(model)
    return _checked(source.spec, source.label)


def _checked(spec: Any, label: str) -> LegacyModel:
    kind = spec.WhichOneof("Type")
    if kind == PROGRAM:
        raise NeuralNetworkError(f"{label}: is an ML Program already; milpasses compress takes it as it is")
    if kind not in (*NETWORKS, *PIPELINES):
        raise NeuralNetworkError(
            f"{label}: is of type {kind or 'unknown'}; neural networks and pipelines of them can be read"
        )
    if spec.isUpdatable:
        raise NeuralNetworkError(
            f"{label}: is updatable (trained on the device), which ML Programs are not; "
            "clear isUpdatable in its specification to read it as it stands"
        )
    model = LegacyModel(spec, label)
    for part in parts(model):
        if part.kind not in NETWORKS:
            raise NeuralNetworkError(
                f"{label}: a pipeline with a part of type {part.kind}; only neural networks can be read"
            )
    return model


def parts(model: LegacyModel) -> Iterator[LegacyModel]:
    """The models of a pipeline in order, those inside inner pipelines too; a network itself."""
    if model.kind not in PIPELINES:
        yield model
    for spec in submodels(model.spec):
        yield from parts(LegacyModel(spec, model.label))


def network_of(model: LegacyModel) -> Any:
    """The network's message: layers, preprocessing and shape mappings."""
    return getattr(model.spec, model.kind)
