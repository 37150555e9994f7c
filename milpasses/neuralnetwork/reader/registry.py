"""Which function reads which layer type.

A handler takes a ``Layer`` (its parameters, its inputs as ``Value`` objects, its weights), builds MIL ops
with coremltools' builder, and returns a ``Value`` for each output: one, or a sequence. Each layer family is a
module of ``milpasses.neuralnetwork.reader.layers`` that registers its handlers when it is imported; the
modules there are found by themselves.
"""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

import attrs

from milpasses import _coremltools as host
from milpasses.neuralnetwork.spec.networks import nested_networks

F = TypeVar("F", bound=Callable[..., Any])
_HANDLERS: dict[str, Callable[[Any], Any]] = {}


def layer(*kinds: str) -> Callable[[F], F]:
    """Register the decorated function as the reader of the layer types ``kinds`` (the spec's names)."""

    def register(function: F) -> F:
        for kind in kinds:
            if kind in _HANDLERS:
                raise ValueError(f"the layer type {kind} has two handlers")
            _HANDLERS[kind] = function
        return function

    return register


def handler(kind: str) -> Callable[[Any], Any] | None:
    """What reads layers of type ``kind``, or None."""
    _load()
    return _HANDLERS.get(kind)


def _load() -> None:
    from milpasses.neuralnetwork.reader import layers

    for module in iter_modules(layers.__path__):
        import_module(f"{layers.__name__}.{module.name}")


def all_layers() -> list[str]:
    """Names of all layer types that the specification defines, in its order."""
    message = host.message_class("NeuralNetwork_pb2", "NeuralNetworkLayer")
    fields = message.DESCRIPTOR.oneofs_by_name["layer"].fields
    return [field.name for field in fields]


def supported_layers() -> list[str]:
    """Names of the layer types that ``read`` reads, in the specification's order."""
    return [kind for kind in all_layers() if handler(kind) is not None]


def unsupported_layers() -> list[str]:
    """Names of the layer types that ``read`` refuses, in the specification's order."""
    return [kind for kind in all_layers() if handler(kind) is None]


@attrs.frozen
class Unsupported:
    """A layer that no handler reads; ``path`` says inside which layers it is."""

    index: int
    name: str
    kind: str
    path: str = ""

    def __str__(self) -> str:
        where = f" in {self.path}" if self.path else ""
        return f"layer {self.index} '{self.name}' ({self.kind}{where})"


def find_unsupported(layers: Any, path: str = "") -> Iterator[Unsupported]:
    """The unsupported of the specification's ``layers``, those in branches and loops included."""
    for index, spec in enumerate(layers):
        kind = spec.WhichOneof("layer")
        if kind is None or handler(kind) is None:
            label = kind or "unknown"
            if kind == "custom":
                label = f"custom {spec.custom.className}"
            yield Unsupported(index, spec.name, label, path)
        for _, network in nested_networks(spec):
            inside = f"{path}/{spec.name}" if path else spec.name
            yield from find_unsupported(network.layers, inside)


def identifier(name: str) -> str:
    """``name`` as an ML Program may call an input, an output or an op."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return clean if re.match(r"[A-Za-z_]", clean) else f"_{clean}"
