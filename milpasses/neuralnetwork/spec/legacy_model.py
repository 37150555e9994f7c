"""Opening a legacy model: a path, an ``MLModel`` or a specification, and which networks it holds."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from milpasses import _coremltools as host
from milpasses.errors import PackageError
from milpasses.neuralnetwork.spec.errors import NeuralNetworkError
from milpasses.neuralnetwork.spec.networks import NETWORKS
from milpasses.program.package import PIPELINES, new_message
from milpasses.program.pipelines import submodels


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


def is_legacy(model: Any) -> bool:
    """Whether ``model``, a path, an ``MLModel`` or a specification, is for ``open_legacy_model`` by its type.

    A path counts by its suffix, so that a damaged file still gets the message that suits it.
    """
    if isinstance(model, str | os.PathLike):
        return Path(model).suffix.lower() == ".mlmodel"
    spec = model if hasattr(model, "specificationVersion") else host.spec_of(model)
    return spec is not None and spec.WhichOneof("Type") in (*NETWORKS, *PIPELINES)


def open_legacy_model(model: Any) -> LegacyModel:
    """Read a legacy model.

    Args:
        model: the path of an ``.mlmodel``, a coremltools ``MLModel``, or its specification.

    Raises:
        NeuralNetworkError: no neural network, or no pipeline of them; what it is and what to do is said.
        PackageError: the file is missing, damaged, truncated or encrypted.
    """
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        return _checked(read_specification(path), str(path))
    if hasattr(model, "specificationVersion"):
        return _checked(model, "the specification")
    if hasattr(model, "get_spec"):
        return _checked(model.get_spec(), "the model")
    raise NeuralNetworkError(
        f"expected the path of an .mlmodel, an MLModel or its specification, got {type(model).__name__}"
    )


def read_specification(path: Path) -> Any:
    """The specification in an ``.mlmodel`` file, of a model of any type.

    Raises ``PackageError`` for a file that cannot be read, ``NeuralNetworkError`` for a folder.
    """
    if path.is_dir():
        raise NeuralNetworkError(f"{path}: a folder, where an .mlmodel file is needed; {_PACKAGE_ADVICE}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror}") from None
    spec = new_message("Model_pb2", "Model")
    try:
        spec.ParseFromString(data)
    except Exception:  # protobuf's own error types differ between its implementations
        raise PackageError(
            f"{path}: damaged or truncated, or no .mlmodel (an encrypted one cannot be read either)"
        ) from None
    if spec.WhichOneof("Type") is None or spec.specificationVersion < 1:
        raise PackageError(f"{path}: holds no model: empty, truncated or encrypted")
    return spec


_PACKAGE_ADVICE = "an ML Program is one already: use milpasses compress"


def _checked(spec: Any, label: str) -> LegacyModel:
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
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
