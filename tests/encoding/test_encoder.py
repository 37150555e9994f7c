"""What an encoder refuses and why, what it notes, and what it needs to know of a weight."""

from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest

from milpasses.encoding.encoder import Encoder
from milpasses.encoding.encodings import Palettized, Quantized, Scaled, Sparse
from milpasses.encoding.generation import IOS16
from milpasses.errors import JointError, Refusal
from milpasses.program.weights import Consumer, Weight
from milpasses.recipe import Keep, Palettize, Prune, Quantize, Scheme

LINEAR = Consumer("linear", "fc", "weight")
GROUPED = Consumer("conv", "c", "weight", groups=4)
MATMUL = Consumer("matmul", "mm", "y")


def values(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def encoder(*shape: int, consumer: Consumer = LINEAR, **options: Any) -> Encoder[Weight]:
    return Encoder(Weight("w", shape, "float32", (consumer,)), **options)


def table_of_five(group: Any) -> Any:
    return np.zeros(5)


GROUPS = Palettize(nbits=4, granularity="per_grouped_channel", group_size=16)
REFUSED: list[tuple[Scheme, Refusal, str]] = [
    (Keep(), Refusal("no-encoding", scheme="keep()"), "keep() encodes nothing"),
    (
        Scheme.parse("int4-b32"),
        Refusal("not-divisible", what="block_size", wanted=32, size=20),
        "block_size 32 does not divide 20 channels",
    ),
    (
        GROUPS,
        Refusal("not-divisible", what="group_size", wanted=16, size=24),
        "group_size 16 does not divide 24 channels",
    ),
    (
        Quantize(granularity="per_block", block_size=(1, 4, 4)),
        Refusal("block-rank", given=3, rank=2),
        "block_size has 3 entries, the weight rank 2",
    ),
    (
        attrs.evolve(GROUPS, channel_axis=2),
        Refusal("axis-outside", axis=2, rank=2),
        "channel_axis 2 is outside rank 2",
    ),
    (
        Palettize(nbits=4, cluster_dim=5),
        Refusal("vectors-not-divisible", name="w", wanted=5, size=24),
        "The `cluster_dim` is invalid for w: 5 does not divide 24 channels. Skipped this op.",
    ),
    (
        Palettize(mode="unique"),
        Refusal("too-many-unique"),
        "Unique values in weight cannot be represented by 8 bits palettization.",
    ),
    (
        Palettize(mode="unique", cluster_dim=1, granularity="per_grouped_channel", group_size=24),
        Refusal("too-many-unique"),
        "Unique values in weight cannot be represented by 8 bits palettization.",
    ),
    (
        Palettize(mode="custom", lut_function=table_of_five),
        Refusal("table-size", shape=(5,), sizes="2, 4, 8, 16, 64 or 256"),
        "lut_function gave a table of shape (5,); a table is a vector of 2, 4, 8, 16, 64 or 256 entries",
    ),
    (
        Scheme.parse("pal2+int8"),
        Refusal("small-table", size=4),
        "a look-up table of 4 entries: nothing to gain",
    ),
    (
        Prune(target_sparsity=0.5) + Palettize(nbits=4, cluster_dim=2),
        Refusal("masked-tables"),
        "pruned weights take look-up tables of scalars without per-channel scales",
    ),
    (
        Prune(n_m_ratio=(3, 16)),
        Refusal("ratio-too-wide", n=3, m=16, size=20),
        "n_m_ratio 3:16 needs m at most half of the 20 channels",
    ),
    (
        Prune(target_sparsity=0.5, block_size=13),
        Refusal("block-too-wide", block=13, size=24),
        "block_size 13 is more than half of 24 channels",
    ),
]


@pytest.mark.parametrize(("scheme", "refusal", "words"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_refusal_says_why_with_its_numbers(scheme: Scheme, refusal: Refusal, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        encoder(24, 20, fit_groups=False).encode(values(24, 20), scheme)
    assert caught.value == refusal
    assert str(caught.value) == words


def test_structured_pruning_is_for_conv_and_linear() -> None:
    with pytest.raises(Refusal, match="structured pruning is for the weights of conv and linear ops"):
        encoder(24, 20, consumer=MATMUL).encode(values(24, 20), Prune(n_m_ratio=(2, 4)))


def test_too_little_sparsity_is_refused() -> None:
    with pytest.raises(Refusal, match=r"sparsity 0.0\d\d < minimum_sparsity_percentile 0.5"):
        encoder(24, 20).encode(values(24, 20), Prune(threshold=0.01))


def test_vectors_do_not_straddle_the_groups_of_a_convolution() -> None:
    scheme = Palettize(nbits=4, cluster_dim=4)
    assert encoder(24, 20, consumer=LINEAR).encode(values(24, 20), scheme).shape == (24, 20)
    with pytest.raises(Refusal, match="4 does not divide 6 channels"):
        encoder(24, 5, 2, 2, consumer=GROUPED).encode(values(24, 5, 2, 2), scheme)


@pytest.mark.parametrize("scheme", [Prune(n_m_ratio=(1, 64), method="obs"), Scheme.parse("sparse50-obs")])
def test_importance_outlives_an_encoding_that_fails(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    importance = np.ones((24, 20), np.float32)
    asked = encoder(24, 20, importance=importance)

    def fails(*args: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("milpasses_kernels.sparsity.magnitude_mask", fails)
    with pytest.raises((Refusal, MemoryError)):
        asked.encode(values(24, 20), scheme)
    assert asked.importance is importance


def test_a_group_that_does_not_divide_is_fitted_and_noted() -> None:
    asked = encoder(24, 20)
    encoded = asked.encode(values(24, 20), GROUPS)
    assert encoded.form == "lut4 per_grouped_channel(12)"
    assert asked.notes == ["group_size 12: 16 does not divide 24 channels"]
    blocks = encoder(24, 20)
    blocks.encode(values(24, 20), Quantize(granularity="per_block", block_size=(7, 0)))
    assert blocks.notes == ["block_size 8: 7 does not divide 24 channels"]
    scaled = encoder(24, 20)
    each = scaled.encode(values(24, 20), attrs.evolve(GROUPS, enable_per_channel_scale=True))
    assert isinstance(each, Palettized)
    assert scaled.notes[-1] == f"the per-channel scales are folded into the tables: {each.form}"


@pytest.mark.parametrize(("nbits", "coremltools"), [(4, 3360), (6, 4608), (8, 6144)])
def test_per_channel_scales_never_cost_more_than_they_save(nbits: int, coremltools: int) -> None:
    """Depthwise, 512 channels of 3x3: a table a channel would be larger than the weight, 9,216 bytes.

    ``coremltools``: bytes of its codes, its table and its scales.
    """
    value = (values(512, 1, 3, 3) * np.exp(values(512)).reshape(-1, 1, 1, 1)).astype(np.float16)
    scheme = Palettize(nbits, enable_per_channel_scale=True)
    consumer = Consumer("conv", "c", "weight", groups=512)
    weight = Weight("w", value.shape, "float16", (consumer,))
    for separate in (False, True):
        encoded = Encoder(weight, separate_scales=separate).encode(value, scheme)
        assert encoded.nbytes < value.nbytes
        assert encoded.nbytes <= coremltools or not separate
        assert isinstance(encoded, Palettized) or separate


@pytest.mark.parametrize("recipe", ["int8", "int4-b4", "pal4-g8", "pal4-v2", "sparse2of4", "sparse50+pal4"])
def test_an_encoder_takes_whatever_has_what_it_asks_for(recipe: str) -> None:
    """Any object with the members of ``EncodableWeight``; the encoding is that of a ``Weight``."""
    value, scheme = values(24, 20), Scheme.parse(recipe)
    use = SimpleNamespace(structured=True, groups_along=lambda axis: 1)
    weight = SimpleNamespace(name="w", shape=(24, 20), rank=2, channel_axes=(0, 1), consumers=(use,))
    expected = encoder(24, 20).encode(value, scheme)
    encoded = Encoder(weight).encode(value, scheme)
    assert encoded.form == expected.form
    assert encoded.decode().tobytes() == expected.decode().tobytes()


class TestExtend:
    """A second form on a weight that has one: ``joint_compression``."""

    def refused(self, existing: Any, scheme: str | Scheme) -> Refusal:
        asked = encoder(24, 20)
        with pytest.raises(Refusal) as caught:
            asked.extend(existing, existing.decode(), Scheme.of(scheme))
        return caught.value

    def test_forms_that_are_joined(self) -> None:
        value, asked = values(24, 20), encoder(24, 20)

        def twice(first: str, second: str) -> Any:
            existing = asked.encode(value, Scheme.parse(first))
            return asked.extend(existing, existing.decode(), Scheme.parse(second))

        for first in ("pal4", "int8"):
            joined = twice(first, "sparse50")
            assert isinstance(joined, Sparse)
            assert isinstance(joined.values, Palettized | Quantized)
        assert twice("sparse50", "pal4-g8").form == "sparse 50% + lut4 per_grouped_channel(8)"
        assert twice("sparse50", "int8").form == "sparse 50% + int8 per_channel"
        assert twice("pal4", "int8-tensor").form == "lut4 per_tensor, int8 entries"
        assert twice("sparse50+pal4", "int8-tensor").form == "sparse 50% + lut4 per_tensor, int8 entries"
        assert twice("int8-tensor", "pal4").form == "lut4 per_tensor, int8 entries"
        assert isinstance(twice("int8", "pal4"), Scaled)

    def test_vectors_are_not_masked(self) -> None:
        value, asked = values(24, 20), encoder(24, 20)
        vectors, sparse = (asked.encode(value, Scheme.parse(name)) for name in ("pal4-v2", "sparse50"))
        assert self.refused(vectors, "sparse50") == Refusal("masked-vectors")
        assert self.refused(sparse, "pal4-v2") == Refusal("masked-vectors")

    def test_what_cannot_be_joined(self) -> None:
        value, asked = values(24, 20), encoder(24, 20)
        existing = asked.encode(value, Scheme.parse("int8"))
        expected = Refusal(
            "not-joinable", form="int8 per_channel", scheme="quantize(dtype=int8, granularity=per_tensor)"
        )
        assert self.refused(existing, "int8-tensor") == expected
        few = Sparse(np.zeros((24, 20), np.uint8), np.zeros(0, np.float32))
        assert self.refused(few, "pal4") == Refusal("few-nonzeros", count=0)

    def test_a_table_takes_one_scale(self) -> None:
        existing = encoder(24, 20).encode(values(24, 20), Scheme.parse("pal4"))
        with pytest.raises(JointError, match=r"w: .* please make sure to use per-tensor quantization"):
            encoder(24, 20).extend(existing, existing.decode(), Quantize())


def test_the_older_ops_store_a_zero_point_and_have_fewer_tables() -> None:
    value = values(24, 20)
    older = encoder(24, 20, generation=IOS16)
    encoded = older.encode(value, Quantize())
    assert isinstance(encoded, Quantized)
    assert encoded.zero_point is not None
    assert not encoded.zero_point.any()
    newer = encoder(24, 20).encode(value, Quantize())
    assert isinstance(newer, Quantized)
    assert newer.zero_point is None
    seven = (np.arange(24 * 20).reshape(24, 20) % 7).astype(np.float32)
    for asked, bits in ((older, 4), (encoder(24, 20), 3)):
        table = asked.encode(seven, Palettize(mode="unique"))
        assert isinstance(table, Palettized)
        assert table.nbits == bits
