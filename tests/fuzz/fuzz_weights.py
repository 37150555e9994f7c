"""Weights as networks have them, and as nobody would expect them: constant, or at the ends of a type."""

from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.optimize._utils import pack_elements_into_bits

Array = np.ndarray
Rng = np.random.Generator

_UINT = {nbits: getattr(types, f"np_uint{nbits}_dtype") for nbits in (1, 2, 3, 4, 6)} | {8: np.uint8}
# The ordinary kinds come more often: most faults need another odd thing beside the values.
KINDS = (
    *("normal",) * 8,
    *("constant", "zeros", "few", "signs", "integers", "sparse", "offset", "outlier", "channels", "wide"),
    *("largest", "large", "subnormal", "tiny", "underflow", "one", "nan", "infinite", "ties", "steps"),
)


def weight_values(rng: Rng, shape: tuple[int, ...], kind: str = "") -> Array:
    """A float32 weight; ``kind`` is drawn unless given.

    ``wide`` and ``underflow`` are of float32: float16 makes infinities and zeros of some of their values.
    """
    kind = kind or str(rng.choice(KINDS))
    normal = rng.standard_normal(shape)
    made: Any = normal * 10.0 ** rng.uniform(-3, 1)
    if kind == "constant":
        made = np.full(shape, rng.choice([1.0, -0.5, 0.1, 6e-8, 65504.0, -3e-6]))
    elif kind == "zeros":
        made = np.zeros(shape)
    elif kind == "few":
        made = rng.choice(rng.standard_normal(int(rng.integers(2, 20))), shape)
    elif kind == "signs":
        made = np.sign(normal)
    elif kind == "integers":
        made = rng.integers(-130, 130, shape)
    elif kind == "sparse":
        made = normal * (rng.random(shape) < rng.choice([0.5, 0.1, 0.01]))
    elif kind == "offset":
        made = normal + rng.choice([1000.0, -600.0, 20.0])
    elif kind == "channels":  # each of another size
        made = normal * 10.0 ** rng.uniform(-6, 2, (shape[0], *[1] * (len(shape) - 1)))
    elif kind == "wide":
        made = normal * 10.0 ** rng.uniform(-35, 35, shape)
    elif kind == "largest":
        made = normal.clip(-1, 1) * 65504
    elif kind == "large":
        made = rng.uniform(-40000, 40000, shape)
    elif kind == "subnormal":
        made = normal * 2.0**-20
    elif kind == "tiny":
        made = rng.integers(-3, 4, shape) * 2.0**-24
    elif kind == "underflow":
        made = normal * 1e-40
    elif kind == "ties":
        made = np.round(normal * 2) / 2
    elif kind == "steps":  # the grid of an 8-bit quantizer itself
        made = rng.integers(-127, 128, shape) * 0.03
    made = np.array(made, np.float64)
    if kind in ("outlier", "one", "nan", "infinite") and made.size:
        value = {"outlier": 1e4, "one": 65504.0, "nan": np.nan, "infinite": -np.inf}[kind]
        made.flat[int(rng.integers(made.size))] = value
    with np.errstate(over="ignore"):
        return made.astype(np.float32)


def compressed_weight(rng: Rng, shape: tuple[int, ...], dtype: Any, typed: bool) -> Any:
    """A constexpr op that gives a weight of ``shape``: what a model has that was compressed before.

    ``typed``: with the ops of iOS18, else with those of iOS16.
    """
    size = int(np.prod(shape))
    scale = np.abs(rng.standard_normal()).astype(dtype) * dtype(0.02) + dtype(0.001)
    form = str(rng.choice(["affine", "table", "sparse"] + ["joint", "vectors", "blocks"] * typed))
    mask = (rng.random(shape) < 0.5).astype(np.uint8)
    mask.flat[:1] = 1
    kept = int(np.count_nonzero(mask))
    nbits = int(rng.choice([1, 2, 4, 6, 8]))
    if form == "affine" and not typed:
        data = rng.integers(-128, 128, shape).astype(np.int8)
        return mb.constexpr_affine_dequantize(quantized_data=data, zero_point=np.int8(3), scale=scale, axis=0)
    if form == "table" and not typed:
        packed = pack_elements_into_bits(rng.integers(0, 1 << nbits, size).astype(np.uint8), nbits)
        lut = rng.standard_normal(1 << nbits).astype(dtype)
        return mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.uint32(shape))
    if form == "sparse":
        values = rng.standard_normal(kept).astype(dtype)
        if typed:
            return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask.astype(_UINT[1]))
        packed = np.packbits(mask.reshape(-1), bitorder="little")
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=packed, shape=np.uint32(shape))
    ones = (1,) * len(shape)
    if form in ("affine", "blocks"):
        counts = (shape[0], *ones[1:]) if form == "blocks" else ones
        data = rng.integers(-8, 8, shape).astype(types.np_int4_dtype)
        scales = np.abs(rng.standard_normal(counts)).astype(dtype) + dtype(0.01)
        return mb.constexpr_blockwise_shift_scale(data=data, scale=scales)
    if form == "joint":
        codes = rng.integers(0, 1 << nbits, kept).astype(_UINT[nbits])
        lut = rng.standard_normal((*ones, 1 << nbits, 1)).astype(dtype)
        out_mask, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask.astype(_UINT[1]), indices_nonzero_data=codes, lut=lut
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask)
    width = 2 if form == "vectors" and shape[0] % 2 == 0 else 1
    lut = rng.standard_normal((*ones, 1 << nbits, width)).astype(dtype)
    codes = rng.integers(0, 1 << nbits, (shape[0] // width, *shape[1:])).astype(_UINT[nbits])
    extra = {"vector_axis": np.int32(0)} if width > 1 else {}
    return mb.constexpr_lut_to_dense(indices=codes, lut=lut, **extra)
