"""Recipes: which rule decides, and the text and YAML they read from and write."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheme_strategies import schemes

from milpasses.errors import Refusal
from milpasses.program.weights import Consumer, Weight
from milpasses.recipe import Decision, Keep, Palettize, Prune, Quantize, Recipe, RecipeError, Rule, Scheme

STEM = Weight("stem.weight", (16, 3, 7, 7), "float16", (Consumer("conv", "stem", "weight"),))
HEAD = Weight("head.weight", (1000, 512), "float16", (Consumer("linear", "logits", "weight"),))
BIAS = Weight("head.bias", (1000,), "float16", (Consumer("linear", "logits", "bias"),))
TIED = Weight(
    "embedding",
    (1000, 64),
    "float16",
    (Consumer("gather", "embed", "x"), Consumer("matmul", "unembed", "y", transposed=True)),
)

patterns = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [
        "stem*",
        "*.weight",
        "a b",
        "x;y",
        "x -> y",
        '"',
        "\\",
        "none",
        "a=b",
        "[0]",
        "7",
        "true",
        "é*",
        "\u2028",
    ]
)
op_types = st.sampled_from(["conv", "linear", ("conv", "linear"), ("matmul",), "none"])
maybe_count = st.none() | st.integers(0, 10**7)
rules = st.builds(
    Rule,
    schemes,
    op_type=st.none() | op_types,
    name=st.none() | patterns,
    op_name=st.none() | patterns,
    param=st.none() | st.sampled_from(["weight", "x"]),
    min_elements=maybe_count,
    max_elements=st.none() | st.integers(10**7, 10**9),
    min_rank=st.none() | st.integers(0, 3),
    rank=st.none() | st.integers(3, 5),
    min_channels=maybe_count,
    min_input_channels=maybe_count,
)
recipes = st.builds(Recipe, schemes, st.lists(rules, max_size=3))


@given(recipes)
def test_one_line_of_text_reads_back(recipe: Recipe) -> None:
    text = recipe.to_text()
    assert text == str(recipe)
    assert text.isprintable()
    for again in (Recipe.parse(text), Recipe.of(text)):
        assert again == recipe
        assert hash(again) == hash(recipe)


@given(recipes)
def test_yaml_reads_back(recipe: Recipe) -> None:
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_text_and_yaml_as_documented() -> None:
    recipe = Recipe(
        default=Palettize(nbits=4, granularity="per_grouped_channel", group_size=16),
        rules=[
            Rule(op_type="conv", min_elements=0, name="stem*", scheme=Quantize(dtype="int8")),
            Rule(Keep(), op_type=("conv", "linear"), op_name="a b"),
        ],
    )
    assert recipe.to_text() == (
        'pal4-g16; op_type=conv name=stem* min_elements=0 -> int8; op_type=conv,linear op_name="a b" -> keep'
    )
    assert recipe.to_yaml() == (
        "default: pal4-g16\n"
        "rules:\n"
        "- op_type: conv\n  name: stem*\n  min_elements: 0\n  scheme: int8\n"
        "- op_type: conv,linear\n  op_name: a b\n  scheme: keep\n"
    )
    assert Recipe.parse("pal4-g16;name=stem*  min_elements=0 op_type=conv->int8") == attrs.evolve(
        recipe, rules=recipe.rules[:1]
    )
    assert Recipe("int8").to_yaml() == "default: int8\n"
    assert Recipe.parse("int8; -> keep").rules == (Rule("keep"),)


def test_yaml_takes_every_spelling_of_a_scheme_and_comments() -> None:
    recipe = Recipe.from_yaml("""
        default: {prune: {target_sparsity: 0.5}, palettize: {nbits: 4}}  # joint
        rules:
          - name: "stem*"
            op_type: [conv, linear]
            scheme: quantize(dtype=int4, granularity=per_block, block_size=(1, 32))
          - {min_elements: 100, scheme: {keep: }}
          - scheme:
              prune:
                threshold: 1e-3  # YAML 1.1 reads a text
    """)
    assert recipe == Recipe(
        Prune(target_sparsity=0.5) + Palettize(4),
        [
            Rule(
                Quantize("int4", granularity="per_block", block_size=(1, 32)),
                name="stem*",
                op_type=("conv", "linear"),
            ),
            Rule(Keep(), min_elements=100),
            Rule(Prune(threshold=0.001)),
        ],
    )


def test_of_takes_whatever_stands_for_a_recipe(tmp_path: Path) -> None:
    expected = Recipe("pal4-g16", [Rule("keep", name="a*")])
    path = tmp_path / "recipe.yml"
    path.write_text(expected.to_yaml(), encoding="utf-8")
    unusual = tmp_path / "recipe.txt"
    unusual.write_text("pal4-g16; name=a* -> keep\n", encoding="utf-8")
    values = (
        expected,
        expected.to_text(),
        expected.to_yaml(),
        path,
        str(path),
        unusual,
        {"default": "pal4-g16", "rules": [{"name": "a*", "scheme": "keep"}]},
    )
    for value in values:
        assert Recipe.of(value) == expected
    assert Recipe.of(Quantize()) == Recipe.of("int8\n") == Recipe.of("quantize()") == Recipe(Quantize())
    assert Recipe.from_yaml(path) == Recipe.from_yaml(str(path)) == expected


def test_the_first_rule_that_matches_decides() -> None:
    recipe = Recipe.parse("pal4; op_type=conv -> int8; name=*.weight -> sparse50; param=bias -> keep")
    assert recipe.decide(STEM) == Decision(Quantize(), 0, 2048, "rule 1: op_type=conv")
    assert recipe.decide(HEAD) == Decision(Prune(target_sparsity=0.5), 1, 2048, "rule 2: name=*.weight")
    assert recipe.decide(BIAS) == Decision(Keep(), 2, 0, "rule 3: param=bias")
    assert recipe.decide(TIED) == Decision(Palettize(4), None, 2048, "default")


def test_reason_names_every_condition() -> None:
    recipe = Recipe("keep", [Rule("keep", name="none"), Rule("int8", name="stem*", op_type="conv", rank=4)])
    assert recipe.decide(STEM).reason == "rule 2: op_type=conv, name=stem*, rank=4"
    assert Recipe("keep", [Rule("int8")]).decide(STEM).reason == "rule 1: every weight"


@pytest.mark.parametrize("size", [2048, 2049])
def test_at_the_threshold_a_weight_is_skipped(size: int) -> None:
    weight = Weight("w", (size,), "float16", ())
    skip = Recipe("int8").decide(weight).skip
    small = Refusal("small", size=2048, which="weight_threshold", limit=2048)
    assert skip == (small if size == 2048 else None)
    assert str(small) == "2,048 elements <= weight_threshold 2,048"
    assert Recipe("keep").decide(weight).skip is None


def test_min_elements_takes_the_place_of_the_threshold() -> None:
    small = attrs.evolve(STEM, shape=(10, 10))
    recipe = Recipe("int8", [Rule("pal4", min_elements=100)])
    assert recipe.decide(small) == Decision(Palettize(4), 0, 99, "rule 1: min_elements=100")
    skip = recipe.decide(attrs.evolve(small, shape=(9, 11))).skip
    assert str(skip) == "99 elements <= weight_threshold 2,048"
    assert Recipe("int8", [Rule("pal4", min_elements=0)]).decide(small).threshold == 0
    joint = Recipe("int8", [Rule("sparse50+pal4", op_type="conv")]).decide(small)
    assert str(joint.skip) == "100 elements <= weight_threshold 2,048"
    empty = Recipe("int8", [Rule("pal4", min_elements=0)]).decide(attrs.evolve(small, shape=(0, 3))).skip
    assert empty == Refusal("small", size=0, which="min_elements", limit=0)


def test_rules_match_whatever_has_what_they_ask_for() -> None:
    """A recipe takes any object with the members of ``MatchableWeight``."""
    use = SimpleNamespace(op_type="conv", op_name="stem", param="weight")
    weight = SimpleNamespace(
        name="stem.weight", shape=(16, 3), size=48, rank=2, channel_axes=(0, 1), consumers=(use,)
    )
    rule = Rule("pal4", op_type="conv", op_name="st*", param="weight", min_elements=9, min_channels=16)
    assert Recipe("int8", [rule]).decide(weight).rule_index == 0
    assert Recipe("int8", [attrs.evolve(rule, min_channels=17)]).decide(weight).rule_index is None


@pytest.mark.parametrize(
    ("weight", "conditions", "expected"),
    [
        (STEM, {"name": "stem.*"}, True),
        (STEM, {"name": "stem"}, False),
        (STEM, {"name": "STEM*"}, False),
        (STEM, {"name": "[st]tem.weigh?"}, True),
        (STEM, {"op_type": "linear"}, False),
        (STEM, {"op_type": ("linear", "conv")}, True),
        (STEM, {"op_type": "conv", "op_name": "logits"}, False),
        (HEAD, {"op_name": "log*", "param": "weight"}, True),
        (BIAS, {"op_name": "log*", "param": "weight"}, False),
        (STEM, {"min_elements": 2352, "max_elements": 2352}, True),
        (STEM, {"min_elements": 2353}, False),
        (STEM, {"max_elements": 2351}, False),
        (STEM, {"rank": 4, "min_rank": 3}, True),
        (STEM, {"rank": 3}, False),
        (HEAD, {"min_rank": 2}, True),
        (BIAS, {"min_rank": 2}, False),
        (STEM, {"min_channels": 16}, True),
        (STEM, {"min_channels": 17}, False),
        (STEM, {"min_input_channels": 3}, True),
        (STEM, {"min_input_channels": 4}, False),
        (TIED, {"op_type": "gather"}, True),
        (TIED, {"op_type": "matmul"}, True),
        (TIED, {"op_type": "gather", "op_name": "unembed"}, False),
        (TIED, {"where": lambda w: w.shape[0] == 1000}, True),
        (TIED, {"where": lambda w: w.shape[0] == 1000, "rank": 3}, False),
        (Weight("unused", (4, 4), "float16", ()), {"op_type": "conv"}, False),
        (Weight("scalar", (), "float16", ()), {"min_channels": 2}, False),
        (
            Weight("b", (8,), "float16", (Consumer("conv_transpose", "up", "bias"),)),
            {"min_channels": 2},
            False,
        ),
        (
            Weight("y", (64, 8), "float16", (Consumer("matmul", "mm", "y"),)),
            {"min_channels": 8, "min_input_channels": 64},
            True,
        ),
        (Weight("y", (64, 8), "float16", (Consumer("matmul", "mm", "y"),)), {"min_channels": 9}, False),
        (STEM, {}, True),
    ],
)
def test_conditions(weight: Weight, conditions: dict[str, object], expected: bool) -> None:
    assert Rule("int8", **conditions).matches(weight) is expected


def test_a_shared_weight_follows_the_order_of_the_rules() -> None:
    embed, unembed = Rule("int8", op_type="gather"), Rule("pal4", op_type="matmul")
    assert Recipe("keep", [embed, unembed]).decide(TIED).scheme == Quantize()
    assert Recipe("keep", [unembed, embed]).decide(TIED).scheme == Palettize(4)


def test_where_is_asked_last_and_only_then_reads_the_weight() -> None:
    def load() -> None:
        raise AssertionError("read")

    weight = attrs.evolve(STEM, load=load)
    rule = Rule("int8", op_type="linear", where=lambda w: bool(w.value.any()))
    assert not rule.matches(weight)
    assert Recipe("pal4", [rule]).decide(weight).rule_index is None
    with pytest.raises(AssertionError, match="read"):
        attrs.evolve(rule, op_type="conv").matches(weight)


def test_selector_of_the_legacy_quantizer_as_rules() -> None:
    """AdvancedQuantizedLayerSelector: kernel channels are the input channels of one group."""
    recipe = Recipe.parse(
        "int8; op_type=conv min_input_channels=4 min_elements=4096 -> int8; op_type=conv -> keep"
    )
    conv = Consumer("conv", "c", "weight")
    for shape, kept in [
        ((64, 3, 7, 7), True),
        ((64, 4, 4, 4), False),
        ((64, 1, 9, 9), True),
        ((9, 9, 3, 3), True),
    ]:
        assert isinstance(recipe.decide(Weight("w", shape, "float16", (conv,))).scheme, Keep) is kept
    assert recipe.decide(HEAD).scheme == Quantize()


def chosen(weight: Weight) -> bool:
    return weight.rank == 2


def test_a_function_shows_but_has_no_text_form() -> None:
    recipe = Recipe("int8", [Rule("keep", name="a"), Rule("pal4", where=chosen)])
    assert str(recipe) == "int8; name=a -> keep; where=<chosen> -> pal4"
    assert recipe.decide(HEAD).reason == "rule 2: where=<chosen>"
    assert recipe == Recipe("int8", [Rule("keep", name="a"), Rule("pal4", where=chosen)])
    for write in (recipe.to_text, recipe.to_yaml):
        with pytest.raises(RecipeError, match="rule 2: where is a Python function: it has no text form"):
            write()
    with pytest.raises(RecipeError, match="rule 1: where: expected a Python function"):
        Recipe.parse("int8; where=<chosen> -> pal4")
    custom = Palettize(mode="custom", lut_function=chosen)
    assert str(Recipe(custom)) == "palettize(mode=custom, lut_function=<chosen>)"
    with pytest.raises(RecipeError, match="rule 1: palettize: lut_function is a Python function"):
        Recipe("int8", [Rule(custom)]).to_yaml()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe.of(None), "recipe: expected a Recipe, a scheme, a short name"),
        (lambda: Recipe.of("gzip"), "unknown scheme 'gzip'; accepted: int8"),
        (lambda: Recipe.of("no/such/file.yaml"), "no/such/file.yaml: no such recipe file"),
        (lambda: Recipe.of(Path("no-such-file")), "no-such-file: no such recipe file"),
        (lambda: Recipe("int8", Rule("keep")), "rules: expected a list of rules, not Rule("),
        (lambda: Recipe("int8", ["keep"]), "rule 1: expected a Rule or a mapping of its fields, not 'keep'"),
        (lambda: Rule(4), "scheme: expected a scheme"),
        (lambda: Rule("int8", name=7), "name: expected a text such as 'stem*' (a number in quotes), not 7"),
        (lambda: Rule("int8", op_name=""), "op_name: expected a text"),
        (
            lambda: Rule("int8", op_type="conv*"),
            "op_type: expected the type of an op such as conv (no pattern)",
        ),
        (lambda: Rule("int8", op_type=()), "op_type: expected"),
        (lambda: Rule("int8", op_type=["conv", 3]), "op_type: expected"),
        (lambda: Rule("int8", op_type=True), "op_type: expected"),
        (
            lambda: Rule("int8", min_elements=-1),
            "min_elements: expected a whole number of at least 0, not -1",
        ),
        (lambda: Rule("int8", rank=True), "rank: expected a whole number"),
        (lambda: Rule("int8", min_elements=9, max_elements=8), "min_elements: 9 is more than max_elements 8"),
        (lambda: Rule("int8", min_rank=4, rank=2), "min_rank: 4 is more than rank 2"),
        (lambda: Rule("int8", where=True), "where: expected a Python function of a Weight"),
        (lambda: Recipe.parse("int8; name=a"), "rule 1: expected 'conditions -> scheme', not 'name=a'"),
        (lambda: Recipe.parse("int8;"), "rule 1: expected 'conditions -> scheme', not ''"),
        (lambda: Recipe.parse("int8; name=a -> b -> c"), "rule 1: expected 'conditions -> scheme'"),
        (lambda: Recipe.parse("int8; name -> keep"), "rule 1: expected condition=value"),
        (lambda: Recipe.parse("int8; name= a -> keep"), "rule 1: expected condition=value"),
        (lambda: Recipe.parse('int8; name="a -> keep'), "rule 1: expected"),
        (lambda: Recipe.parse(r'int8; name="\q" -> keep'), r'rule 1: name: "\q" is not a quoted text'),
        (lambda: Recipe.parse("int8; name=a name=b -> keep"), "rule 1: name given twice"),
        (
            lambda: Recipe.parse("int8; -> keep; nam=a -> keep"),
            "rule 2: rule: unknown 'nam'; accepted: scheme, op_",
        ),
        (lambda: Recipe.parse("int8; name=a -> pal5"), "rule 1: nbits: Core ML has lookup tables"),
        (lambda: Recipe.parse("pal5; name=a -> int8"), "nbits: Core ML has lookup tables"),
        (lambda: Recipe.from_yaml(""), "recipe: expected a mapping with default and rules, not None"),
        (lambda: Recipe.from_yaml("- int8"), "expected a mapping with default and rules, not ['int8']"),
        (lambda: Recipe.from_yaml("rules: []"), "default: a recipe needs one; 'default: keep' leaves"),
        (lambda: Recipe.from_yaml("defaults: int8"), "unknown 'defaults'; accepted: default, rules"),
        (lambda: Recipe.from_yaml("default: 8"), "default: scheme: expected a scheme"),
        (lambda: Recipe.from_yaml("default: int8\nrules: 3"), "rules: expected a list of rules, not 3"),
        (lambda: Recipe.from_yaml("default: int8\nrules: [{name: a}]"), "rule 1: scheme: a rule needs one"),
        (
            lambda: Recipe.from_yaml("default: int8\nrules: [{names: a, scheme: int8}]"),
            "rule 1: rule: unknown 'names'; accepted: scheme, op_type, name, op_name, param, min_elements",
        ),
        (
            lambda: Recipe.from_yaml("default: int8\nrules: [{name: *a}]"),
            'put patterns in quotes: "*.weight"',
        ),
        (
            lambda: Recipe.from_yaml("default: {palettize: {bits: 4}}"),
            "palettize: unknown 'bits'; accepted: nbits",
        ),
        (lambda: Recipe.from_yaml("default: [int8"), "recipe: not YAML"),
        (lambda: Recipe.from_yaml("default: 2001-99-99"), "recipe: not YAML"),
    ],
)
def test_what_cannot_be_says_why(make: Callable[[], Recipe | Rule], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make()
    assert message in str(caught.value)


def test_a_recipe_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("default: int8\nrules:\n  - {name: a, scheme: pal5}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine.yaml: rule 1: nbits: Core ML has lookup tables"):
        Recipe.of(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*mine.yaml"):
        Recipe.of(path)


@given(recipes)
def test_a_recipe_copies_and_pickles(recipe: Recipe) -> None:
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe


@given(schemes)
def test_a_scheme_is_a_recipe_without_rules(scheme: Scheme) -> None:
    assert Recipe.of(scheme) == Recipe(scheme, ()) == Recipe.of(str(scheme))
