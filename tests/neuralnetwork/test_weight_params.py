"""Weights as an ``.mlmodel`` stores them, against coremltools' own packing and dequantizing."""

import numpy as np
import pytest
from coremltools.models.neural_network import quantization_utils as theirs
from quantization_models import weight_params as params_of

from milpasses.encoding.encodings import Palettized, Quantized
from milpasses.neuralnetwork.spec import weight_params as wp

SHAPE = (5, 7)


def codes_of(nbits: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << nbits, SHAPE).astype(np.uint8)


@pytest.mark.parametrize("nbits", range(1, 9))
def test_packs_as_coremltools(nbits: int) -> None:
    codes = codes_of(nbits)
    packed = wp.pack(codes, nbits)
    if nbits < 8:
        assert packed == theirs._convert_array_to_nbit_quantized_bytes(codes.ravel(), nbits).tobytes()
        unpacked = theirs._unpack_to_bytes(np.frombuffer(packed, np.uint8), codes.size, nbits)
        np.testing.assert_array_equal(unpacked, codes.ravel())
    np.testing.assert_array_equal(wp.unpack(packed, nbits, codes.size), codes.ravel())


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize(("axis", "shape"), [(0, (5, 7)), (0, (35,)), (1, (3, 4, 2, 2))])
def test_decodes_linear_as_coremltools(nbits: int, axis: int, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(nbits)
    codes = random.integers(0, 1 << nbits, shape).astype(np.uint8)
    channels = 1 if len(shape) == 1 else shape[axis]
    scale, bias = random.random(channels).astype(np.float32), random.standard_normal(channels)
    params = params_of()
    wp.write_linear(params, codes, scale, bias, nbits)
    mine = wp.decode(params, shape, axis)
    encoded = wp.encoding(params, shape, axis)
    assert isinstance(encoded, Quantized)
    theirs._dequantize_wp(params, shape, axis)
    expected = np.array(params.floatValue, np.float32).reshape(shape)
    np.testing.assert_array_equal(mine, expected)
    np.testing.assert_allclose(encoded.decode(), expected, rtol=0, atol=4e-7 * np.abs(codes * 1.0 + 4).max())
    np.testing.assert_array_equal(encoded.codes, codes)


@pytest.mark.parametrize("nbits", range(1, 9))
def test_decodes_tables_as_coremltools(nbits: int) -> None:
    params, codes = params_of(), codes_of(nbits)
    table = np.random.default_rng(1).standard_normal(1 << nbits).astype(np.float32)
    wp.write_lut(params, codes, table)
    encoded = wp.encoding(params, SHAPE)
    assert isinstance(encoded, Palettized)
    assert encoded.nbits == nbits
    mine = wp.decode(params, SHAPE)
    theirs._dequantize_wp(params, SHAPE)
    np.testing.assert_array_equal(mine.ravel(), np.array(params.floatValue, np.float32))
    np.testing.assert_array_equal(encoded.decode(), mine)
    again = params_of()
    wp.write(again, encoded)
    np.testing.assert_array_equal(wp.decode(again, SHAPE), mine)


def test_floats_go_through_their_wire_form() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for size in (0, 1, 31, 32, 127, 1000):  # around the lengths at which the length takes another byte
        params = params_of(isUpdatable=True, floatValue=[1.0, 2.0])
        wp.write_dense(params, values[:size])
        assert list(params.floatValue) == values[:size].tolist()
        assert params.isUpdatable
        np.testing.assert_array_equal(wp.decode(params, (size,)), values[:size])


def test_float16_stays_float16() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    params = params_of()
    wp.write(params, values)
    assert wp.form(params) == "float16"
    decoded = wp.decode(params, (2, 3))
    assert decoded.dtype == np.float16
    np.testing.assert_array_equal(decoded, values)
    assert wp.nbytes(params) == 12


def test_int8_has_a_scale_alone() -> None:
    codes = np.arange(-3, 3, dtype=np.int8)
    params = params_of(int8RawValue=codes.tobytes())
    params.quantization.numberOfBits = 8
    params.quantization.linearQuantization.scale.append(0.5)
    np.testing.assert_array_equal(wp.decode(params, (2, 3)).ravel(), codes * 0.5)
    encoded = wp.encoding(params, (2, 3))
    assert isinstance(encoded, Quantized)
    assert (encoded.dtype, encoded.zero_point) == ("int8", None)
    np.testing.assert_array_equal(encoded.decode().ravel(), codes * 0.5)


def test_scale_zero_and_far_offsets_lose_nothing() -> None:
    codes = codes_of(8)
    flat = params_of()
    wp.write_linear(flat, codes, np.zeros(5), np.arange(5.0), 8)
    np.testing.assert_array_equal(wp.encoding(flat, SHAPE).decode(), wp.decode(flat, SHAPE))
    far = params_of()
    wp.write_linear(far, codes, np.full(5, 1e-3), np.full(5, 4096.0), 8)
    decoded = wp.decode(far, SHAPE)
    np.testing.assert_allclose(wp.encoding(far, SHAPE).decode(), decoded, rtol=2.0**-22, atol=0)
    beyond = params_of()
    wp.write_linear(beyond, codes, np.full(5, 1e-30), np.full(5, 1e10), 8)
    assert isinstance(wp.encoding(beyond, SHAPE), np.ndarray)  # no float32 is a zero point of -1e40
    np.testing.assert_array_equal(wp.encoding(beyond, SHAPE), wp.decode(beyond, SHAPE))


def test_scales_of_a_grouped_deconvolution() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (6, 4, 2, 2)).astype(np.uint8)
    scale = np.arange(1.0, 9.0)  # two groups of four outputs
    params = params_of()
    wp.write_linear(params, codes, scale, -scale, 8)
    expected = codes * np.repeat(scale.reshape(2, 4), 3, axis=0)[:, :, None, None]
    expected -= np.repeat(scale.reshape(2, 4), 3, axis=0)[:, :, None, None]
    np.testing.assert_array_equal(wp.decode(params, codes.shape, 1), expected)
    np.testing.assert_array_equal(wp.encoding(params, codes.shape, 1).decode(), expected)


def test_says_what_is_wrong() -> None:
    with pytest.raises(wp.WeightError, match="3 values are stored, but the layer declares 2x2"):
        wp.decode(params_of(floatValue=[1, 2, 3]), (2, 2))
    with pytest.raises(wp.WeightError, match="without a scale or a look-up table"):
        wp.decode(params_of(rawValue=b"12"), (2,))
    params = params_of()
    wp.write_lut(params, codes_of(4), np.arange(16.0))
    with pytest.raises(wp.WeightError, match="take 20 bytes, but 18 are stored"):
        wp.decode(params, (40,))
    params.quantization.lookupTableQuantization.floatValue.pop()
    with pytest.raises(wp.WeightError, match="16 entries"):
        wp.decode(params, SHAPE)
    params = params_of()
    wp.write_linear(params, codes_of(8), np.ones(3), np.ones(3), 8)
    with pytest.raises(wp.WeightError, match="1 or 5 scales are needed, but 3"):
        wp.decode(params, SHAPE)
    signed = Quantized(np.zeros(SHAPE, np.int8), np.ones((1, 1), np.float32), None, "int8")
    with pytest.raises(wp.WeightError, match="unsigned codes"):
        wp.write(params_of(), signed)
