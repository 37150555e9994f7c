"""Schemes: their fields, what cannot be, their text forms and short names."""

import ast
from collections.abc import Iterable
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given
from scheme_strategies import palettizes, prunes, quantizes, schemes

import milpasses
from milpasses.errors import MilpassesError
from milpasses.recipe import Joint, Keep, Palettize, Prune, Quantize, RecipeError, Scheme, short_name


@given(schemes)
def test_every_text_form_reads_back(scheme: Scheme) -> None:
    for text in (str(scheme), scheme.to_text(), short_name(scheme) or str(scheme)):
        again = Scheme.parse(text)
        assert again == scheme
        assert hash(again) == hash(scheme)
        assert str(again) == str(scheme)


@given(quantizes() | palettizes() | prunes())
def test_a_scheme_reads_from_a_mapping_of_its_fields_typed_or_as_text(scheme: Scheme) -> None:
    fields = {field.name: getattr(scheme, field.name) for field in attrs.fields(type(scheme))}
    assert Scheme.of({scheme.kind: fields}) == scheme
    assert Scheme.of({scheme.kind: {name: str(value) for name, value in fields.items()}}) == scheme
    assert Scheme.parse(repr(scheme)) == scheme


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Quantize(), "quantize(dtype=int8)"),
        (Quantize("int4", granularity="per_block"), "quantize(dtype=int4, granularity=per_block)"),
        (
            Quantize("int4", granularity="per_block", block_size=[1, 32]),
            "quantize(dtype=int4, granularity=per_block, block_size=(1, 32))",
        ),
        (
            Palettize(nbits=4, granularity="per_grouped_channel", group_size=16),
            "palettize(nbits=4, granularity=per_grouped_channel, group_size=16)",
        ),
        (
            Palettize(4, enable_per_channel_scale=True),
            "palettize(nbits=4, enable_per_channel_scale=true)",
        ),
        (Palettize(mode="unique"), "palettize(mode=unique)"),
        (Prune(threshold=1e-12), "prune(threshold=1e-12)"),
        (Prune(n_m_ratio="2:4"), "prune(n_m_ratio=(2, 4))"),
        (Prune(n_m_ratio=(2, 4), dim=0), "prune(n_m_ratio=(2, 4), dim=0)"),
        (Prune(target_sparsity=0.5, block_size=4, dim=0), "prune(target_sparsity=0.5, block_size=4)"),
        (Prune(target_sparsity=0.5) + Palettize(4), "prune(target_sparsity=0.5) + palettize(nbits=4)"),
        (Keep(), "keep()"),
    ],
)
def test_canonical_text(scheme: Scheme, text: str) -> None:
    assert str(scheme) == scheme.to_text() == text


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("int8", Quantize("int8")),
        ("uint4", Quantize("uint4")),
        ("int4-b32", Quantize("int4", granularity="per_block", block_size=32)),
        ("int8-tensor", Quantize("int8", granularity="per_tensor")),
        ("int4-b16-asym-minmax", Quantize("int4", "linear", "per_block", 16, "minmax")),
        ("pal4", Palettize(4)),
        ("pal4-g16", Palettize(4, granularity="per_grouped_channel", group_size=16)),
        ("pal8-v2", Palettize(8, cluster_dim=2)),
        ("pal3-g8-v2", Palettize(3, granularity="per_grouped_channel", group_size=8, cluster_dim=2)),
        ("pal2-uniform", Palettize(2, mode="uniform")),
        ("unique", Palettize(mode="unique")),
        ("unique-g32", Palettize(mode="unique", granularity="per_grouped_channel")),
        ("sparse50", Prune(target_sparsity=0.5)),
        ("sparse7", Prune(target_sparsity=0.07)),
        ("sparse62.5", Prune(target_sparsity=0.625)),
        ("sparse2of4", Prune(n_m_ratio=(2, 4))),
        ("sparse50+pal4", Prune(target_sparsity=0.5) + Palettize(4)),
        ("sparse50+int8", Prune(target_sparsity=0.5) + Quantize("int8")),
        ("pal4+int8", Palettize(4) + Quantize("int8", granularity="per_tensor")),
        ("keep", Keep()),
    ],
)
def test_short_names(name: str, scheme: Scheme) -> None:
    assert Scheme.parse(name) == scheme
    assert short_name(scheme) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("float", "keep"),
        ("INT8", "int8"),
        ("int4-minmax-b16", "int4-b16-minmax"),
        (" sparse50 + pal4 ", "sparse50+pal4"),
        ("pal4+int8-tensor", "pal4+int8"),
        ("palettize(nbits=4) + int8", "pal4+int8"),
        ("sparse50+int8-tensor", "sparse50+int8-tensor"),
        ("Quantize(dtype='int8')", "int8"),
        ("quantize()", "int8"),
        ("quantize(dtype=int8, weight_threshold=0)", None),
        ("quantize(granularity=per_block, block_size=(1, 32))", None),
        ("palettize(nbits=4, enable_per_channel_scale=true)", None),
        ("prune(target_sparsity=0.123456789)", None),
        ("prune(threshold=0.1)", None),
        ("prune(n_m_ratio=(2, 4), dim=0)", None),
    ],
)
def test_other_spellings_and_their_short_name(text: str, name: str | None) -> None:
    assert short_name(Scheme.parse(text)) == name


def test_values_convert_from_what_coremltools_and_yaml_give() -> None:
    assert Quantize(dtype=np.int8, mode="LINEAR") == Quantize(dtype=np.dtype("int8"), mode="linear")
    assert Palettize(nbits=np.int64(4), channel_axis="none", enable_per_channel_scale="True") == Palettize(
        4, enable_per_channel_scale=True
    )
    assert Prune(target_sparsity="1") == Prune(target_sparsity=1)
    assert Quantize(granularity="per_block", block_size="[0, 32]").block_size == (0, 32)
    assert str(Prune(threshold=-0.0)) == "prune(threshold=0.0)"


def test_what_a_quantize_stores() -> None:
    assert (Quantize("int8").nbits, Quantize("int8").signed, Quantize("int8").symmetric) == (8, True, True)
    uint4 = Quantize("uint4", mode="linear")
    assert (uint4.nbits, uint4.signed, uint4.symmetric) == (4, False, False)


def test_dim_of_structured_sparsity_is_coremltools_own() -> None:
    assert Prune(n_m_ratio=(2, 4)).dim == 1
    assert Prune(target_sparsity=0.5, block_size=2).dim == 0
    assert Prune(target_sparsity=0.5).dim is None


def test_threshold_of_a_joint_is_the_larger() -> None:
    first, second = Prune(target_sparsity=0.5, weight_threshold=10), Palettize(4, weight_threshold=20)
    assert (first + second).weight_threshold == 20
    assert Scheme.parse(str(first + second)).weight_threshold == 20
    assert Keep().weight_threshold == 0


def test_schemes_are_frozen_and_evolve_is_checked() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Quantize().dtype = "int4"  # type: ignore[misc]
    assert attrs.evolve(Palettize(4), nbits="6") == Palettize(6)
    with pytest.raises(RecipeError, match="nbits"):
        attrs.evolve(Palettize(4), nbits=5)
    with pytest.raises(TypeError):
        Quantize() + "int8"  # type: ignore[operator]


def lut_function(weight: np.ndarray) -> tuple[list[float], list[int]]:
    return [0.0, 1.0], [0] * weight.size


def test_a_function_shows_but_has_no_text_form() -> None:
    custom = Palettize(mode="custom", lut_function=lut_function)
    assert str(custom) == "palettize(mode=custom, lut_function=<lut_function>)"
    assert short_name(custom) is None
    joint = Prune(target_sparsity=0.5) + custom
    assert "lut_function" in str(joint)
    assert hash(custom) == hash(Palettize(mode="custom", lut_function=lut_function))
    for scheme in (custom, joint):
        assert repr(scheme)
        with pytest.raises(RecipeError, match="palettize: lut_function is a Python function: it has no text"):
            scheme.to_text()
    with pytest.raises(RecipeError, match="lut_function: expected a Python function"):
        Scheme.parse(str(custom))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown scheme ''; accepted: int8, "),
        ("gzip", "unknown scheme 'gzip'; accepted: int8, "),
        ("gzip(level=9)", "scheme: unknown 'gzip'; accepted: quantize, palettize, prune, half, keep"),
        ("quantize(dtype=int8", "unknown scheme 'quantize(dtype=int8'"),
        ("quantize(int8)", "expected field=value, not 'int8'"),
        ("quantize(dtype=int8,)", "expected field=value, not ''"),
        ("quantize(dtype=int8, dtype=int4)", "dtype given twice"),
        ("quantize(nbits=8)", "quantize: unknown 'nbits'; accepted: dtype, mode, granularity, block_size"),
        ("keep(nbits=8)", "keep: unknown 'nbits'; accepted: nothing"),
        ("int5", "dtype: expected one of int8, uint8, int4, uint4, not 'int5'"),
        ("quantize(mode=affine)", "mode: expected one of linear_symmetric, linear, not 'affine'"),
        ("quantize(granularity=per_grouped_channel)", "granularity: expected one of per_channel, per_tensor"),
        ("quantize(block_size=16)", "block_size: only with granularity=per_block, not per_channel"),
        ("int4-b-1", "unknown suffix '-b'"),
        ("quantize(granularity=per_block, block_size=-1)", "block_size: expected a whole number, or a tuple"),
        ("quantize(granularity=per_block, block_size=(32))", "not '(32)'"),
        ("quantize(granularity=per_block, block_size=(1, x))", "not '(1, x)'"),
        (
            "quantize(weight_threshold=-1)",
            "weight_threshold: expected a whole number of at least 0, not '-1'",
        ),
        ("quantize(weight_threshold=none)", "weight_threshold: expected a whole number"),
        ("int8-b32-tensor", "granularity given twice"),
        ("int8-g16", "unknown suffix '-g16'; accepted after int8: -b<N>, -tensor, -asym, -minmax"),
        ("sparse50-b4", "accepted after sparse50: -obs"),
        ("pal5", "nbits: Core ML has lookup tables of 1, 2, 3, 4, 6 and 8 bits, not 5"),
        ("pal7", "nbits: Core ML has lookup tables of 1, 2, 3, 4, 6 and 8 bits, not 7"),
        ("palettize()", "nbits: mode=kmeans needs one of 1, 2, 3, 4, 6, 8, none given"),
        ("palettize(mode=uniform)", "nbits: mode=uniform needs one of"),
        ("palettize(nbits=4.0)", "nbits: expected a whole number, not '4.0'"),
        ("palettize(nbits=4, mode=unique)", "nbits: mode=unique finds it, give none, not 4"),
        ("palettize(nbits=4, mode=custom)", "nbits: mode=custom finds it"),
        ("palettize(mode=custom)", "lut_function: mode=custom needs a function, none given"),
        ("palettize(nbits=4, group_size=8)", "group_size: only with granularity=per_grouped_channel"),
        ("palettize(nbits=4, channel_axis=1)", "channel_axis: only with granularity=per_grouped_channel"),
        ("pal4-g0", "group_size: expected a whole number of at least 1, not '0'"),
        ("pal4-v0", "cluster_dim: expected a whole number of at least 1"),
        ("pal4-uniform-v2", "cluster_dim: 2 goes only with mode=kmeans or unique, not uniform"),
        ("palettize(nbits=4, enable_per_channel_scale=1)", "enable_per_channel_scale: expected one of true"),
        ("prune()", "give exactly one of target_sparsity, threshold, n_m_ratio, not none"),
        ("prune(target_sparsity=0.5, threshold=0)", "not target_sparsity and threshold"),
        ("sparse101", "target_sparsity: expected a number from 0 to 1, not 1.01"),
        ("prune(target_sparsity=nan)", "target_sparsity: expected a number from 0 to 1, not 'nan'"),
        ("prune(threshold=inf)", "threshold: expected a number of at least 0, not 'inf'"),
        ("prune(threshold=0.1, block_size=2)", "block_size: only with target_sparsity, not threshold"),
        ("prune(n_m_ratio=2:4, block_size=2)", "block_size: only with target_sparsity, not n_m_ratio"),
        ("prune(target_sparsity=0.5, block_size=1)", "block_size: expected a whole number of at least 2"),
        ("prune(target_sparsity=0.5, dim=0)", "dim: only with block_size or n_m_ratio"),
        ("prune(n_m_ratio=(2, 4), dim=2)", "dim: expected 0 or 1, not 2"),
        ("prune(n_m_ratio=(0, 0))", "n_m_ratio: expected a pair (n, m)"),
        ("prune(n_m_ratio=(1, 2, 4))", "n_m_ratio: expected a pair (n, m)"),
        ("prune(n_m_ratio=2)", "n_m_ratio: expected a pair (n, m)"),
        ("sparse4of2", "n_m_ratio: expected a pair (n, m)"),
        (
            "prune(target_sparsity=0.5, minimum_sparsity_percentile=0.1)",
            "minimum_sparsity_percentile: only with threshold, not target_sparsity",
        ),
        ("pal4+", "unknown scheme ''"),
        ("pal4+pal4", "cannot join palettize + palettize; allowed: prune + palettize, prune + quantize, "),
        ("int8+sparse50", "cannot join quantize + prune; allowed"),
        ("keep+int8", "cannot join keep + quantize; allowed"),
        ("sparse50+pal4+int8", "cannot join joint + quantize; allowed"),
        ("pal4+int4", "take dtype=int8 or uint8 and granularity=per_tensor, not int4 and per_tensor"),
        ("palettize(nbits=4) + quantize(dtype=int8)", "not int8 and per_channel"),
    ],
)
def test_what_cannot_be_says_why(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Scheme.parse(text)
    assert message in str(caught.value)
    assert isinstance(caught.value, MilpassesError)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (4, "scheme: expected a scheme, its text form, a short name or a mapping"),
        ({}, "scheme: expected a scheme"),
        ({"palettize": 4}, "palettize: expected a mapping of its fields, not 4"),
        ({"palletize": {}}, "unknown 'palletize'"),
        ({"palettize": {"nbits": True}}, "nbits: expected a whole number, not True"),
        ({"palettize": {"nbits": 4.0}}, "nbits: expected a whole number, not 4.0"),
        ({"quantize": {"dtype": None}}, "dtype: expected one of int8, uint8, int4, uint4, not None"),
        ({"quantize": {"dtype": np.float16}}, "not 'float16'"),
        ({"quantize": {"granularity": "per_block", "block_size": True}}, "not True"),
        ({"prune": {"target_sparsity": True}}, "target_sparsity: expected a number from 0 to 1, not True"),
        ({"prune": {"n_m_ratio": 124}}, "to YAML a bare 2:4 is one number"),
        ({"palettize": {"mode": "custom", "lut_function": 1}}, "lut_function: expected a Python function"),
        ({"palettize": {"nbits": 4, "lut_function": lut_function}}, "lut_function: only with mode=custom"),
        ({"quantize": {"dtype": "int8"}, "prune": {"target_sparsity": 0.5}}, "cannot join quantize + prune"),
    ],
)
def test_mappings_that_cannot_be_say_why(value: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Scheme.of(value)
    assert message in str(caught.value)


def test_joint_wants_schemes() -> None:
    with pytest.raises(RecipeError, match="joint: expected two schemes, not 'pal4'"):
        Joint("pal4", Quantize())  # type: ignore[arg-type]


RECIPE = Path(milpasses.__file__).parent / "recipe"


@pytest.mark.parametrize("path", sorted(RECIPE.glob("*.py")), ids=lambda path: path.stem)
def test_importing_recipes_stays_light(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {name.split(".")[0] for name in imported(tree.body)} & {"coremltools", "numba", "yaml"}


def imported(nodes: Iterable[ast.AST]) -> list[str]:
    """The modules that statements among ``nodes`` import."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names
