"""The generations of constexpr ops: what an encoder and ``lowering`` must know of them."""

import attrs


@attrs.frozen
class OpGeneration:
    """A generation of MIL's constexpr ops.

    ``lut_bits``: bits of an index into a look-up table. ``typed``: the ops take tensors of types below a byte
    (``uint4``) as inputs, and one op may take another's output; otherwise packed bytes and a shape, as
    attributes. ``stores_zero_point``: an affine op has a zero point even where it is zero.
    """

    name: str
    lut_bits: tuple[int, ...]
    typed: bool
    stores_zero_point: bool


IOS16 = OpGeneration("iOS16", lut_bits=(1, 2, 4, 6, 8), typed=False, stores_zero_point=True)
IOS18 = OpGeneration("iOS18", lut_bits=(1, 2, 3, 4, 6, 8), typed=True, stores_zero_point=False)
