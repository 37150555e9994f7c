"""A layer's weights as MIL constants: floats densely, quantized ones in the constexpr op with the same codes.

Which op holds what, without loss:

====================================  ==================================  =================================
stored                                iOS16                               iOS18
====================================  ==================================  =================================
look-up table                         ``constexpr_lut_to_dense``          the same
linear, one scale                     ``constexpr_affine_dequantize`` of 8 bits, else a look-up table of the
                                      2^nbits values that occur; both generations
linear, a scale for each channel      ``constexpr_affine_dequantize``     ``constexpr_blockwise_shift_scale``
the same, zero points no integers     dense                               ``constexpr_blockwise_shift_scale``
the same, of a grouped deconvolution  dense                               ``constexpr_blockwise_shift_scale``
====================================  ==================================  =================================

MIL has no 5- and 7-bit codes, iOS16 no 3-bit ones, and affine ones have 4 or 8 bits: others are widened.
"""

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Palettized, Quantized
from milpasses.encoding.lowering import OpSpec, Ref, lower
from milpasses.neuralnetwork.reader.mil import mb
from milpasses.neuralnetwork.spec.weight_params import decode, encoding
from milpasses.program.opset import Opset

Array = NDArray[Any]


@attrs.define(eq=False)
class WeightStore:
    """Turns ``WeightParams`` into what MIL's builder takes.

    ``opset``: that of the target. ``half``: the program will compute in float16, so scales and
    tables are rounded to it here. ``notes`` says what could not be kept as it was; ``wants_ios18`` counts the
    weights that were decoded because only iOS18 has an op for them.
    """

    opset: Opset
    half: bool
    notes: list[str] = attrs.field(factory=list)
    wants_ios18: int = 0

    def constant(self, params: Any, shape: tuple[int, ...], axis: int = 0) -> Array:
        """The decoded weights in float32."""
        return decode(params, shape, axis).astype(np.float32)

    def weight(self, params: Any, shape: tuple[int, ...], name: str, axis: int = 0) -> Any:
        """The weights as a float32 array, or as the variable of a constexpr op."""
        found = encoding(params, shape, axis)
        if isinstance(found, np.ndarray):
            return found.astype(np.float32)
        held = self._held(found, name)
        if isinstance(held, np.ndarray):
            return held.astype(np.float32)
        return self._emit(held, name)

    def _held(self, found: Quantized | Palettized, name: str) -> Array | Quantized | Palettized:
        """``found`` in a form that the target has."""
        if isinstance(found, Quantized) and found.scale.size == 1 and not self._is_exact(found):
            found = _tabulated(found)
        if isinstance(found, Palettized):
            table = found.table.astype(np.float16) if self.half else found.table
            return _widened(attrs.evolve(found, lut=table), self.opset.lut_bits)
        zero_point = found.zero_point
        floating = zero_point is not None and zero_point.dtype.kind == "f"
        grouped = sum(count > 1 for count in found.scale.shape) > 1
        if (floating or grouped) and not self.opset.blocks:
            self.wants_ios18 += 1
            why = "its zero points are no integers" if floating else "its scales vary along two axes"
            self.notes.append(f"{name}: decoded; {why}, which takes iOS18")
            return found.decode()
        scale = found.scale.astype(np.float16) if self.half else found.scale
        if self.half and not np.allclose(scale.astype(np.float32), found.scale, rtol=2.0**-11, atol=0):
            self.notes.append(f"{name}: decoded; float16 cannot hold its scales")
            return found.decode()
        if zero_point is not None and floating and self.half:
            zero_point = zero_point.astype(np.float16)
        if zero_point is None and self.opset.generation.stores_zero_point:
            zero_point = np.zeros(found.scale.shape, found.codes.dtype)
        bits = (
            "4"
            if 4 in self.opset.integer_bits and found.dtype in ("uint1", "uint2", "uint3", "uint4")
            else "8"
        )
        return Quantized(found.codes, scale, zero_point, found.dtype.rstrip("0123456789") + bits)

    def _is_exact(self, found: Quantized) -> bool:
        """An 8-bit affine op gives these weights as precisely as a look-up table of them would."""
        zero_point = found.zero_point
        whole = zero_point is None or zero_point.dtype.kind != "f"
        exact = not self.half or bool((found.scale.astype(np.float16) == found.scale).all())
        return whole and exact and found.dtype in ("uint8", "int8")

    def _emit(self, held: Quantized | Palettized, name: str) -> Any:
        made: list[Any] = []
        for spec in lower(held, name, self.opset.generation):
            made.append(_built(spec, made))
        # The passes that bring the program to float16 take this cast out again.
        return mb.cast(x=made[-1], dtype="fp32", name=f"{name}_float32") if self.half else made[-1]


def _built(spec: OpSpec, made: list[Any]) -> Any:
    from milpasses.program.memory import typed_value as typed

    inputs: dict[str, Any] = {}
    for param, source in spec.inputs.items():
        inputs[param] = made[source.op] if isinstance(source, Ref) else typed(source.values, source.dtype)
    return getattr(mb, spec.op_type)(name=spec.name, **inputs)


def _tabulated(found: Quantized) -> Palettized:
    """A look-up table of the values that the codes of one scale stand for."""
    signed = found.dtype.startswith("int")
    nbits = int(found.dtype.lstrip("uint"))
    codes = np.arange(1 << nbits, dtype=np.uint8)
    rank = found.codes.ndim
    levels = codes.astype(np.int8) if signed else codes
    one = attrs.evolve(found, codes=levels.reshape(-1, *[1] * (rank - 1)) if rank else levels)
    table = one.decode().reshape((1,) * rank + (-1, 1))
    return Palettized(found.codes.view(np.uint8), table)


def _widened(found: Palettized, allowed: tuple[int, ...]) -> Palettized:
    """With a table of a size that MIL has; the entries that are added are not used."""
    wanted = 1 << next(bits for bits in allowed if bits >= found.nbits)
    missing = wanted - found.table.shape[-2]
    pad = [(0, 0)] * (found.table.ndim - 2) + [(0, missing), (0, 0)]
    return attrs.evolve(found, lut=np.pad(found.table, pad, mode="edge")) if missing else found
