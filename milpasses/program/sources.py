"""What a file or an object is: the one place that tells Core ML's kinds of models apart, and from others.

A model comes as an ``.mlpackage`` folder, an ``.mlmodel`` file, an ``MLModel`` or a specification, and holds
an ML Program, a neural network, or another type. ``read_source`` reads any of them; of everything else it
says what it is and what would work.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import attrs
from coremltools.models import MLModel

from milpasses import _coremltools as host
from milpasses.errors import PackageError, no_such_file
from milpasses.program.inside import check_tree, path_inside

PROGRAM = "mlProgram"
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
_MANIFEST = "Manifest.json"
_VERSION, _ITEM_FIELDS = "fileFormatVersion", ("name", "author", "description")  # Core ML wants all
_WHILE_CONVERTING = "with pass_pipeline=milpasses.pipeline(recipe) in ct.convert it is compressed on the way"


@attrs.frozen(eq=False)
class Source:
    """A model that was read: its specification (``Model_pb2.Model``), and where that comes from.

    ``label`` names it in messages. ``path``: its file or package, None of a model in memory.
    ``spec_path``: the file of the specification inside a package, None outside of any.
    """

    spec: Any
    label: str
    path: Path | None = None
    spec_path: Path | None = None

    @property
    def kind(self) -> str | None:
        """The model's type in the specification: ``mlProgram``, ``neuralNetworkClassifier``."""
        return self.spec.WhichOneof("Type")

    @property
    def is_network(self) -> bool:
        """Whether it is a neural network or a pipeline: what ``milpasses.neuralnetwork`` opens."""
        return self.kind in (*NETWORKS, *PIPELINES)


def read_source(model: Any) -> Source:
    """The model behind a path, an ``MLModel``, a specification, or a ``Source``, which is read already.

    Of an ``MLModel`` what counts is its specification, with what the caller changed in it. Raises
    ``PackageError``: missing or damaged, or no model of Core ML, with what it is and what would work.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, str | os.PathLike):
        return _read_path(Path(model))
    if isinstance(model, MLModel):
        if model.is_package and model.package_path is not None:
            folder = Path(model.package_path)
            check_tree(folder)
            return Source(model.get_spec(), "the model", folder, spec_path(folder))
        return Source(model.get_spec(), "the model")
    if hasattr(model, "specificationVersion"):
        return Source(model, "the specification")
    raise PackageError(_foreign_object(model))


def spec_path(folder: Path) -> Path:
    """The file of the specification inside the package at ``folder``; ``PackageError`` where it is none."""
    path_inside(folder, _MANIFEST, str(folder), "the path")
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        entries = manifest["itemInfoEntries"]
        items = {name: item["path"] for name, item in entries.items()}
        root = items[manifest["rootModelIdentifier"]]
        texts = [manifest[_VERSION], *(item[field] for item in entries.values() for field in _ITEM_FIELDS)]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PackageError(f"{folder}: not an .mlpackage (its {_MANIFEST} is missing or damaged)") from None
    for path in items.values():  # all of them are copied with the manifest, and Core ML wants them there
        item = path_inside(folder / "Data", path, str(folder), f"its {_MANIFEST} says that")
        if path != root and not item.exists():
            raise PackageError(f"{folder}: its {_MANIFEST} names {path[:200]!r}, which is not in the package")
    path_inside(folder, "Data", str(folder), "the path")
    return path_inside(folder / "Data", root, str(folder), f"its {_MANIFEST} says that")


def program_needed(source: Source) -> str:
    """Why ``source`` cannot be opened as the package of an ML Program, and what would work."""
    label, kind = source.label, source.kind
    if kind == PROGRAM and source.path is not None:
        return f"{label}: one file of an .mlpackage, without its weights; give the path of the package"
    if kind == PROGRAM:
        return (
            f"{label}: an ML Program's specification comes without its weights; give the MLModel that it is "
            "of, or the path of its .mlpackage"
        )
    reason = f"{label}: an ML Program is needed, and this is of type {kind or 'unknown'}"
    if kind in NETWORKS:
        return (
            f"{reason}: milpasses upgrade (milpasses.neuralnetwork.upgrade) makes one of it, "
            "milpasses quantize-nn quantizes it as it is"
        )
    if kind in PIPELINES:
        return f"{reason}; name one of its parts (part=), or use a function that takes pipelines"
    return f"{reason}: milpasses compresses ML Programs and neural networks only"


def _read_path(path: Path) -> Source:
    if not path.exists():
        raise PackageError(no_such_file(path))
    foreign = _foreign_file(path)
    if foreign:
        raise PackageError(f"{path}: {foreign}")
    if path.is_dir():
        inside = spec_path(path)
        check_tree(path)
        try:
            data = inside.read_bytes()
        except OSError:
            raise PackageError(f"{path}: the model file {inside.name} is missing") from None
        spec = _parsed(data)
        if spec is None:
            raise PackageError(f"{path}: the model file {inside.name} is damaged or truncated")
        return Source(spec, str(path), path, inside)
    try:
        spec = _parsed(path.read_bytes())
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror}") from None
    empty = spec is None or spec.WhichOneof("Type") is None or spec.specificationVersion < 1
    if empty and path.suffix.lower() != ".mlmodel":
        raise PackageError(
            f"{path}: an .mlpackage folder or an .mlmodel file is needed, and this is a file of another kind"
        )
    if spec is None:
        raise PackageError(
            f"{path}: damaged or truncated, or no .mlmodel (an encrypted one cannot be read either)"
        )
    if empty:
        raise PackageError(f"{path}: holds no model: empty, truncated or encrypted")
    return Source(spec, str(path), path)


def _parsed(data: bytes) -> Any:
    """The specification in ``data``; None where it is none."""
    spec: Any = host.message_class("Model_pb2", "Model")()
    try:
        spec.ParseFromString(data)
    except Exception:  # protobuf's own error types differ between its implementations
        return None
    return spec


# What is not Core ML's, or no longer a model that can be read: what it is, and what would work.

_COMPILED = (
    "a compiled Core ML model (.mlmodelc), which cannot be read or changed; give the .mlpackage or .mlmodel "
    "that it was compiled from"
)
_ONNX = (
    "an ONNX model, and coremltools converts none; convert the PyTorch or TensorFlow network that it was "
    f"exported from: {_WHILE_CONVERTING}"
)
_TORCHSCRIPT = f"a TorchScript network; convert it (ct.convert): {_WHILE_CONVERTING}"
_EXPORTED = f"a program of torch.export; convert it (ct.convert): {_WHILE_CONVERTING}"
_CHECKPOINT = (
    "a PyTorch checkpoint: weights without the network; load them into the network, trace or export it, and "
    f"convert that (ct.convert): {_WHILE_CONVERTING}"
)
_MODULE = f"a PyTorch module; trace or export it and convert that (ct.convert): {_WHILE_CONVERTING}"
_TENSORFLOW = f"a TensorFlow model; convert it (ct.convert): {_WHILE_CONVERTING}"
_TFLITE = f"a TensorFlow Lite model; convert the TensorFlow model that it was made from: {_WHILE_CONVERTING}"

_SUFFIXES = {
    ".mlmodelc": _COMPILED,
    ".onnx": _ONNX,
    ".pt2": _EXPORTED,
    ".pt": _CHECKPOINT,
    ".pth": _CHECKPOINT,
    ".ckpt": _CHECKPOINT,
    ".safetensors": _CHECKPOINT.replace("a PyTorch checkpoint", "a checkpoint (safetensors)"),
    ".keras": _TENSORFLOW,
    ".h5": _TENSORFLOW,
    ".pb": _TENSORFLOW,
    ".tflite": _TFLITE,
}
# By the module of a class or one of its bases, the most telling first.
_MODULES = {
    "coremltools.models._compiled_model": _COMPILED,
    "coremltools.converters.mil.mil.program": f"a program in memory; convert it (ct.convert): "
    f"{_WHILE_CONVERTING}",
    "torch.jit": _TORCHSCRIPT,
    "torch.export": _EXPORTED,
    "torch.nn": _MODULE,
    "onnx": _ONNX,
    "tensorflow": _TENSORFLOW,
    "keras": _TENSORFLOW,
}


def _foreign_file(path: Path) -> str | None:
    """What a file or folder is, and what would work, where it is no model that can be read."""
    if path.is_dir():
        if (path / "coremldata.bin").is_file():
            return _COMPILED
        if (path / "saved_model.pb").is_file():
            return _TENSORFLOW
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
        if "constants.pkl" in names:
            return _TORCHSCRIPT
        if any(name in ("archive_format", "serialized_exported_program.json") for name in names):
            return _EXPORTED
        if "data.pkl" in names:
            return _CHECKPOINT
    return _SUFFIXES.get(path.suffix.lower())


def _foreign_object(model: Any) -> str:
    """The same for an object; the packages that made it are not imported."""
    bases = [f"{base.__module__}." for base in type(model).__mro__]
    for module, words in _MODULES.items():
        if any(base.startswith(f"{module}.") for base in bases):
            return f"a {type(model).__name__} is {words}"
    return (
        "expected the path of an .mlpackage or .mlmodel, an MLModel or its specification, "
        f"got {type(model).__name__}"
    )
