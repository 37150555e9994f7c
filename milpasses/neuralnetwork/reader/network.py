"""The network while it is being read: values by name, and what a layer's handler may ask for."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.errors import MilpassesError
from milpasses.neuralnetwork.reader.registry import handler, identifier
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.reader.weights import WeightStore
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

Array = NDArray[Any]


@attrs.define(eq=False)
class Network:
    """Reads layers in order inside the current block of MIL's builder.

    ``values`` maps the blob names that exist at this point to what they hold. ``rank5`` says that the
    network's arrays are [Sequence, Batch, Channel, Height, Width].
    """

    weights: WeightStore
    rank5: bool
    values: dict[str, Value] = attrs.field(factory=dict)

    def child(self) -> "Network":
        """The same network inside a nested block: what it reads there is not seen outside."""
        return Network(self.weights, self.rank5, dict(self.values))

    def run(self, layers: Any) -> None:
        """Read the specification's ``layers`` and add what they produce to ``values``.

        Raises ``LayerError`` with the layer's index, name and type.
        """
        for index, spec in enumerate(layers):
            kind = spec.WhichOneof("layer")
            try:
                self._read(spec, kind, index)
            except MilpassesError as error:
                raise LayerError(f"layer {index} '{spec.name}' ({kind}): {error}") from error
            except (ValueError, TypeError, IndexError) as error:  # coremltools' checks of an op's inputs
                line = " ".join(str(error).split())
                raise LayerError(f"layer {index} '{spec.name}' ({kind}): {line}") from error

    def _read(self, spec: Any, kind: str, index: int) -> None:
        missing = [name for name in spec.input if name not in self.values]
        if missing:
            raise LayerError(f"no earlier layer gives its input {', '.join(missing)}")
        read = handler(kind)
        assert read is not None  # checked for all layers before the first is read
        result = read(Layer(self, spec, index, kind, [self.values[name] for name in spec.input]))
        outputs: Sequence[Value] = [result] if isinstance(result, Value) else result
        if len(outputs) < len(spec.output):
            raise LayerError(f"has {len(spec.output)} outputs where {len(outputs)} are possible")
        self.values.update(zip(spec.output, outputs, strict=False))


@attrs.frozen(eq=False)
class Layer:
    """One layer: what its handler reads."""

    network: Network
    spec: Any
    index: int
    kind: str
    inputs: list[Value]

    @property
    def name(self) -> str:
        """The layer's name as MIL may call its main op."""
        return identifier(self.spec.name or f"{self.kind}_{self.index}")

    @property
    def params(self) -> Any:
        """The layer's parameters: the message of its type."""
        return getattr(self.spec, self.kind)

    @property
    def value(self) -> Value:
        """Its only input, or the first."""
        if not self.inputs:
            raise LayerError("has no input")
        return self.inputs[0]

    def exactly(self, count: int) -> list[Value]:
        """Its inputs, which must be ``count``."""
        if len(self.inputs) != count:
            raise LayerError(f"takes {count} inputs and has {len(self.inputs)}")
        return self.inputs

    def weight(self, params: Any, shape: Sequence[int], name: str = "weight", channel: int = 0) -> Any:
        """What to give a MIL op as its weight.

        ``params`` is a ``WeightParams`` of ``shape``. Stored floats come as a float32 array; quantized ones
        as the variable of a constexpr op with the same codes. ``channel`` is the axis of the output channels,
        along which scales may differ.
        """
        return self.network.weights.weight(params, tuple(shape), f"{self.name}_{name}", channel)

    def constant(self, params: Any, shape: Sequence[int], channel: int = 0) -> Array:
        """A ``WeightParams`` as a float32 array of ``shape``, decoded if quantized."""
        return self.network.weights.constant(params, tuple(shape), channel)

    def bias(self, present: bool, params: Any, size: int) -> Array | None:
        """A bias vector, or None where there is none."""
        return self.constant(params, (size,)) if present else None

    def number(self, value: float, default: float) -> np.float32:
        """A parameter whose 0 means its default."""
        return np.float32(value or default)

    def load(self, value: Any, name: str = "") -> Any:
        """An array, or a variable that ``weight`` gave, as a variable."""
        return (
            mb.const(val=value, name=name or f"{self.name}_value") if isinstance(value, np.ndarray) else value
        )
