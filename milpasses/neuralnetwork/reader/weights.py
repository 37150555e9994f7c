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
from milpasses.encoding.lowering import lower
from milpasses.neuralnetwork.spec.weight_params import decode, encoding
from milpasses.program.builder import built, mb
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
        stored = encoding(params, shape, axis)
        if not isinstance(stored, np.ndarray):
            stored = self._supported(stored, name)
        if isinstance(stored, np.ndarray):
            return stored.astype(np.float32)
        variable = built(lower(stored, name, self.opset.generation))
        # The passes that bring the program to float16 take this cast out again.
        return mb.cast(x=variable, dtype="fp32", name=f"{name}_float32") if self.half else variable

    def _supported(self, stored: Quantized | Palettized, name: str) -> Array | Quantized | Palettized:
        """``stored`` in a form that the target has; decoded where it has none."""
        if isinstance(stored, Quantized) and stored.scale.size == 1 and not self._is_exact(stored):
            stored = _tabulated(stored)
        if isinstance(stored, Palettized):
            table = stored.table.astype(np.float16) if self.half else stored.table
            return _widened(attrs.evolve(stored, lut=table), self.opset.lut_bits)
        zero_point = stored.zero_point
        floating = zero_point is not None and zero_point.dtype.kind == "f"
        grouped = sum(count > 1 for count in stored.scale.shape) > 1
        if (floating or grouped) and not self.opset.blocks:
            self.wants_ios18 += 1
            why = "its zero points are no integers" if floating else "its scales vary along two axes"
            self.notes.append(f"{name}: decoded; {why}, which takes iOS18")
            return stored.decode()
        scale = stored.scale.astype(np.float16) if self.half else stored.scale
        if self.half and not np.allclose(scale.astype(np.float32), stored.scale, rtol=2.0**-11, atol=0):
            self.notes.append(f"{name}: decoded; float16 cannot hold its scales")
            return stored.decode()
        if zero_point is not None and floating and self.half:
            zero_point = zero_point.astype(np.float16)
        if zero_point is None and self.opset.generation.stores_zero_point:
            zero_point = np.zeros(stored.scale.shape, stored.codes.dtype)
        bits = (
            "4"
            if 4 in self.opset.integer_bits and stored.dtype in ("uint1", "uint2", "uint3", "uint4")
            else "8"
        )
        return Quantized(stored.codes, scale, zero_point, stored.dtype.rstrip("0123456789") + bits)

    def _is_exact(self, stored: Quantized) -> bool:
        """An 8-bit affine op gives these weights as precisely as a look-up table of them would."""
        zero_point = stored.zero_point
        whole = zero_point is None or zero_point.dtype.kind != "f"
        exact = not self.half or bool((stored.scale.astype(np.float16) == stored.scale).all())
        return whole and exact and stored.dtype in ("uint8", "int8")


def _tabulated(stored: Quantized) -> Palettized:
    """A look-up table of the values that the codes of one scale stand for."""
    signed = stored.dtype.startswith("int")
    nbits = int(stored.dtype.lstrip("uint"))
    codes = np.arange(1 << nbits, dtype=np.uint8)
    rank = stored.codes.ndim
    levels = codes.astype(np.int8) if signed else codes
    every_code = attrs.evolve(stored, codes=levels.reshape(-1, *[1] * (rank - 1)) if rank else levels)
    table = every_code.decode().reshape((1,) * rank + (-1, 1))
    return Palettized(stored.codes.view(np.uint8), table)


def _widened(stored: Palettized, allowed: tuple[int, ...]) -> Palettized:
    """With a table of a size that MIL has; the entries that are added are not used."""
    wanted = 1 << next(bits for bits in allowed if bits >= stored.nbits)
    missing = wanted - stored.table.shape[-2]
    pad = [(0, 0)] * (stored.table.ndim - 2) + [(0, missing), (0, 0)]
    return attrs.evolve(stored, lut=np.pad(stored.table, pad, mode="edge")) if missing else stored
