"""Compressed weights: the interpreter decodes what coremltools' own ``decompress`` gives, bit for bit."""

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.optimize._utils import pack_elements_into_bits

from milpasses.interpreter import Interpreter, InterpreterError

RNG = np.random.default_rng(2)
SHAPE = (6, 8)
UINT = {nbits: getattr(types, f"np_uint{nbits}_dtype") for nbits in (1, 2, 3, 4, 6)} | {8: np.uint8}
FLOATS = [np.float16, np.float32]


def values(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def codes(nbits: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 1 << nbits, shape).astype(UINT[nbits])


def signed(*shape: int) -> np.ndarray:
    return RNG.integers(-8, 8, shape).astype(types.np_int4_dtype)


def mask_of(*shape: int) -> np.ndarray:
    mask = RNG.random(shape) < 0.4
    mask.reshape(-1)[0] = True
    return mask.astype(types.np_uint1_dtype)


def program(build: Callable[[], Any], target: Any) -> Any:
    """A program that returns its input, with the ops of ``build`` in it and used."""

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=target)
    def holder(x: Any) -> Any:
        weight = build()
        if weight.dtype != types.fp32:
            weight = mb.cast(x=weight, dtype="fp32")
        return mb.add(x=mb.reduce_sum(x=weight, axes=[-1], keep_dims=True), y=mb.squeeze(x=x), name="y")

    return holder


def decompressed(op: Any) -> Any:
    """What coremltools' ops compute; its own ``materialized_val_inference`` takes no quantized table."""
    if op.op_type != "constexpr_lut_to_dense" or op.lut.val is not None:
        return op.materialized_val_inference()
    return op.decompress(op.indices.val, op.lut.op.materialized_val_inference(), None)


def check(build: Callable[[], Any], target: Any) -> None:
    """Compare each output of each constexpr op of the program with coremltools' own values."""
    made = program(build, target)
    interpreter = Interpreter(made)
    last = [op for op in made.functions["main"].operations if op.op_type.startswith("constexpr_")]
    assert last
    for op in last:
        expected = decompressed(op)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for var, value in zip(op.outputs, expected, strict=True):
            decoded = interpreter.constants.value(var)
            assert decoded.dtype == (np.float32 if value.dtype.kind == "f" else value.dtype)
            np.testing.assert_array_equal(decoded, value.astype(decoded.dtype))
    assert next(iter(interpreter.run({"x": [0.0]}).values())).dtype == np.float32


@pytest.mark.parametrize("dtype", FLOATS)
class TestIOS16:
    @pytest.mark.parametrize("axis", [None, 0, 1])
    @pytest.mark.parametrize("stored", [np.int8, np.uint8])
    def test_affine(self, dtype: Any, axis: int | None, stored: Any) -> None:
        info = np.iinfo(stored)
        size = () if axis is None else (SHAPE[axis],)
        scale = dtype(0.037) if axis is None else np.abs(values(*size, dtype=dtype))
        offset = stored(7) if axis is None else RNG.integers(info.min, info.max, size).astype(stored)
        data = RNG.integers(info.min, info.max + 1, SHAPE).astype(stored)

        def build() -> Any:
            return mb.constexpr_affine_dequantize(
                quantized_data=data, zero_point=offset, scale=scale, axis=axis or 0
            )

        check(build, ct.target.iOS16)

    @pytest.mark.parametrize("nbits", [1, 2, 4, 6, 8])
    def test_tables(self, dtype: Any, nbits: int) -> None:
        packed = pack_elements_into_bits(codes(nbits, 48), nbits)
        lut = values(1 << nbits, dtype=dtype)

        def build() -> Any:
            return mb.constexpr_lut_to_dense(indices=packed, lut=lut, shape=np.uint32(SHAPE))

        check(build, ct.target.iOS16)

    def test_sparse(self, dtype: Any) -> None:
        mask = mask_of(48)
        kept = values(int(np.count_nonzero(mask)), dtype=dtype)

        def build() -> Any:
            return mb.constexpr_sparse_to_dense(
                nonzero_data=kept, mask=np.packbits(mask, bitorder="little"), shape=np.uint32(SHAPE)
            )

        check(build, ct.target.iOS16)

    def test_cast(self, dtype: Any) -> None:
        stored = values(*SHAPE, dtype=np.float16)
        check(lambda: mb.constexpr_cast(source_val=stored, output_dtype="fp32"), ct.target.iOS16)


@pytest.mark.parametrize("dtype", FLOATS)
class TestIOS18:
    @pytest.mark.parametrize("counts", [(1, 1), (6, 1), (1, 8), (3, 2)])
    @pytest.mark.parametrize("stored", ["int4", "uint4", "int8", "uint8", "float"])
    @pytest.mark.parametrize("offset", ["none", "codes", "float"])
    def test_shift_scale(self, dtype: Any, counts: tuple[int, int], stored: str, offset: str) -> None:
        """Floats may be scaled, too, though no compression makes that."""
        make = {
            "int4": signed,
            "uint4": lambda *shape: codes(4, *shape),
            "int8": lambda *shape: RNG.integers(-128, 128, shape).astype(np.int8),
            "uint8": lambda *shape: codes(8, *shape),
            "float": lambda *shape: values(*shape, dtype=dtype),
        }[stored]
        data, scale = make(*SHAPE), np.abs(values(*counts, dtype=dtype))
        extra: dict[str, Any] = {}
        if offset == "codes":
            extra["offset"] = make(*counts)
        elif offset == "float":  # multiples of 1/4: a difference that float16 holds exactly
            extra["offset"] = (RNG.integers(-8, 8, counts) / 4).astype(dtype)
        check(lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **extra), ct.target.iOS18)

    @pytest.mark.parametrize("nbits", [1, 2, 3, 4, 6, 8])
    @pytest.mark.parametrize("groups", [(1, 1), (3, 1), (2, 4)])
    def test_tables(self, dtype: Any, nbits: int, groups: tuple[int, int]) -> None:
        indices, lut = codes(nbits, *SHAPE), values(*groups, 1 << nbits, 1, dtype=dtype)
        check(lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut), ct.target.iOS18)

    @pytest.mark.parametrize("axis", [0, 1, -1])
    @pytest.mark.parametrize("width", [2, 3])
    def test_tables_of_vectors(self, dtype: Any, axis: int, width: int) -> None:
        indices, lut = codes(4, *SHAPE), values(3, 2, 16, width, dtype=dtype)
        check(
            lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=np.int32(axis)),
            ct.target.iOS18,
        )

    def test_quantized_tables(self, dtype: Any) -> None:
        indices, entries = codes(4, *SHAPE), RNG.integers(-128, 128, (3, 1, 16, 1)).astype(np.int8)
        scale = np.abs(values(3, 1, 1, 1, dtype=dtype))

        def build() -> Any:
            lut = mb.constexpr_blockwise_shift_scale(data=entries, scale=scale)
            return mb.constexpr_lut_to_dense(indices=indices, lut=lut)

        check(build, ct.target.iOS18)

    @pytest.mark.parametrize("entries", ["float", "int8"])
    @pytest.mark.parametrize("offset", [False, True])
    def test_scaled_tables(self, dtype: Any, entries: str, offset: bool) -> None:
        """A scale for each channel behind a table, as coremltools stores ``enable_per_channel_scale``."""
        indices, scale = codes(4, *SHAPE), np.abs(values(6, 1, dtype=dtype))
        lut = values(2, 1, 16, 1, dtype=dtype)
        shift = values(6, 1, dtype=dtype)
        if entries == "int8":
            lut = RNG.integers(-128, 128, lut.shape).astype(np.int8)
            shift = RNG.integers(-8, 8, shift.shape).astype(np.int8)
        extra = {"offset": shift} if offset else {}

        def build() -> Any:
            data = mb.constexpr_lut_to_dense(indices=indices, lut=lut)
            return mb.constexpr_blockwise_shift_scale(data=data, scale=scale, **extra)

        check(build, ct.target.iOS18)

    def test_sparse(self, dtype: Any) -> None:
        mask = mask_of(*SHAPE)
        kept = values(int(np.count_nonzero(mask)), dtype=dtype)
        check(lambda: mb.constexpr_sparse_to_dense(nonzero_data=kept, mask=mask), ct.target.iOS18)

    @pytest.mark.parametrize("second", ["output", "again", "other"])
    def test_sparse_codes(self, dtype: Any, second: str) -> None:
        """The second op takes the first one's mask, its constant (as coremltools stores it), or another."""
        mask, scale = mask_of(*SHAPE), np.abs(values(3, 1, dtype=dtype))
        kept, offset = codes(4, int(np.count_nonzero(mask))), codes(4, 3, 1)

        def build() -> Any:
            out_mask, nonzero = mb.constexpr_sparse_blockwise_shift_scale(
                data_mask=mask, nonzero_data=kept, scale=scale, offset=offset
            )
            other = np.ascontiguousarray(mask[::-1]).astype(types.np_uint1_dtype)
            final = {"output": out_mask, "again": mask, "other": other}[second]
            return mb.constexpr_sparse_to_dense(nonzero_data=nonzero, mask=final)

        check(build, ct.target.iOS18)

    @pytest.mark.parametrize("axis", [None, 0, 1])
    def test_sparse_indices(self, dtype: Any, axis: int | None) -> None:
        mask = mask_of(*SHAPE)
        kept = codes(4, int(np.count_nonzero(mask)))
        lut = values(3, 1, 16, 1 if axis is None else 2, dtype=dtype)
        extra = {} if axis is None else {"vector_axis": np.int32(axis)}

        def build() -> Any:
            out_mask, nonzero = mb.constexpr_lut_to_sparse(
                indices_mask=mask, indices_nonzero_data=kept, lut=lut, **extra
            )
            return mb.constexpr_sparse_to_dense(nonzero_data=nonzero, mask=out_mask)

        check(build, ct.target.iOS18)


def test_float32_precision_rounds_no_weight() -> None:
    data, scale = codes(8, *SHAPE), np.abs(values(6, 1, dtype=np.float16))
    made = program(lambda: mb.constexpr_blockwise_shift_scale(data=data, scale=scale), ct.target.iOS18)
    (op,) = (op for op in made.functions["main"].operations if op.op_type.startswith("constexpr_"))
    decoded = Interpreter(made, precision="float32").constants.value(op.outputs[0])
    np.testing.assert_array_equal(decoded, data.astype(np.float32) * scale.astype(np.float32))


def test_an_index_beyond_its_table_is_an_error_that_names_the_op() -> None:
    indices, lut = np.full(SHAPE, 200, np.uint8), values(1, 1, 256, 1)
    made = program(
        lambda: mb.constexpr_lut_to_dense(indices=indices, lut=lut, name="weight"), ct.target.iOS18
    )
    (op,) = (op for op in made.functions["main"].operations if op.op_type.startswith("constexpr_"))
    op.lut._sym_val.val = lut[:, :, :128]
    with pytest.raises(InterpreterError, match="op constexpr_lut_to_dense 'weight': codes must be below 128"):
        Interpreter(made).run({"x": [0.0]})
