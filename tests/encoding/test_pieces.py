"""Pieces of an encoding decode to what the whole does, and the errors of all of them are its errors."""

import attrs
import numpy as np
import pytest

from milpasses.encoding import pieces as module
from milpasses.encoding.encoder import Encoder
from milpasses.encoding.encodings import Quantized
from milpasses.encoding.generation import IOS18
from milpasses.encoding.pieces import pieces
from milpasses.encoding.verify import checked_errors, decoding_errors
from milpasses.errors import MilpassesError
from milpasses.program.weights import Weight
from milpasses.recipe.recipe import Recipe

VALUE = (np.random.default_rng(0).standard_normal((48, 64)) * 0.02).astype(np.float16)
MANY = (
    "int8",
    "int4-b32",
    "quantize(dtype=uint4, mode=linear, granularity=per_channel)",
    "pal4",
    "pal4-g16",
    "pal4+int8",
)
WHOLE = "sparse50", "pal4-v2", "sparse50+pal4"


def encode(scheme: str):
    weight = Weight("w", VALUE.shape, "float16", ())
    return Encoder(weight).encode(VALUE, Recipe.of(scheme).default)


@pytest.mark.parametrize("elements", [1, 64 * 5, 64 * 16, 1 << 20])
@pytest.mark.parametrize("scheme", [*MANY, *WHOLE])
def test_pieces_decode_to_the_whole(scheme: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = encode(scheme)
    found = list(pieces(encoding, elements))
    if scheme in WHOLE or elements > VALUE.size:
        assert len(found) == 1
    else:
        assert len(found) > 1
    decoded = encoding.decode()
    np.testing.assert_array_equal(np.concatenate([piece.decode() for _, piece in found]), decoded)
    np.testing.assert_array_equal(np.concatenate([VALUE[rows] for rows, _ in found]), VALUE)
    expected = decoding_errors(VALUE, decoded)
    monkeypatch.setattr(module.pieces, "__defaults__", (elements,))
    monkeypatch.setattr("milpasses.encoding.verify._CORNER", 64)  # as small beside these pieces as in earnest
    assert checked_errors(VALUE, encoding, "w", IOS18) == pytest.approx(expected, rel=1e-12)


def test_what_the_op_does_not_decode_to_is_found_in_the_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = encode("int4-b32")
    assert isinstance(encoding, Quantized)
    wrong = attrs.evolve(encoding, codes=encoding.codes ^ 1)
    monkeypatch.setattr("milpasses.encoding.verify.pieces", lambda _: pieces(wrong))
    with pytest.raises(MilpassesError, match="does not decode to what was computed"):
        checked_errors(VALUE, encoding, "w", IOS18)
