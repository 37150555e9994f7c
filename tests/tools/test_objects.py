"""Objects answer in one line, notebooks get tables, and the front door is short."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import coremltools as ct
import milpasses_tools
import pytest
from milpasses_tools import compare

import milpasses as mp
from milpasses.interpreter import Interpreter
from milpasses.report import abridged, html_table


@pytest.fixture(scope="module")
def small(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> mp.CompressedModel:
    output = tmp_path_factory.mktemp("objects") / "small.mlpackage"
    return mp.compress(digits_packages["iOS18"], "pal4", output=output)


@pytest.fixture(scope="module")
def objects(small: mp.CompressedModel, digits_packages: dict[str, Path]) -> dict[str, tuple[Any, str]]:
    """Each with what its line must say."""
    model = digits_packages["iOS18"]
    return {
        "compressed": (small, f"{small.report.summary()}, by pal4>"),
        "report": (small.report, small.report.summary()),
        "pipeline": (mp.pipeline("pal4-g16"), "passes, then pal4-g16>"),
        "interpreter": (Interpreter(model), "image -> scores; precision declared>"),
        "comparison": (compare(model, small, samples=2), "2 samples of random data, seed 0: scores "),
        "recipe": (mp.Recipe.of("pal4; op_type=conv -> int8"), "<Recipe: pal4; op_type=conv -> int8>"),
    }


@pytest.mark.parametrize("name", ["compressed", "report", "pipeline", "interpreter", "comparison", "recipe"])
def test_the_repr_is_one_line_that_says_what_it_is(objects: dict[str, tuple[Any, str]], name: str):
    thing, expected = objects[name]
    text = repr(thing)
    assert "\n" not in text
    assert len(text) < 250
    assert text.startswith(f"<{type(thing).__name__}")
    assert expected in text


def test_a_recipe_of_many_rules_stays_one_line():
    recipe = mp.Recipe(
        default=mp.Keep(), rules=[mp.Rule(name=f"weight_{n}", scheme="int8") for n in range(99)]
    )  # pyright: ignore
    assert len(repr(recipe)) < 120
    assert mp.Recipe.parse(str(recipe)) == recipe
    assert abridged("a " * 300).endswith("...")


@pytest.mark.parametrize("name", ["compressed", "report", "comparison"])
def test_notebooks_get_a_table(objects: dict[str, tuple[Any, str]], name: str):
    thing, _ = objects[name]
    html = thing._repr_html_()
    assert html.startswith("<table><caption>")
    rows = len(thing.outputs) if name == "comparison" else len(getattr(thing, "report", thing))
    assert html.count("<tr>") == rows + 1


def test_texts_of_a_table_are_escaped():
    assert "<b>" not in html_table(("a",), [("<b>&",)], "<b>")
    assert "&lt;b&gt;&amp;" in html_table(("a",), [("<b>&",)], "")


def test_dir_shows_the_front_door():
    for module in (mp, milpasses_tools):
        public = [name for name in dir(module) if not name.startswith("_")]
        assert public == sorted(module.__all__)
        for name in public:
            assert getattr(module, name) is not None


@pytest.mark.parametrize("scheme", [mp.Quantize, mp.Palettize, mp.Prune])
def test_words_of_schemes_are_literals_that_the_fields_take(scheme: Callable[..., Any]):
    words = ("mode", "granularity", "method", "dtype")
    hints = {name: hint for name, hint in get_type_hints(scheme).items() if name in words}
    assert "method" in hints
    for name, hint in hints.items():
        assert get_origin(hint) is Literal, name
        for word in get_args(hint):
            given: dict[str, Any] = {name: word}
            if scheme is mp.Palettize:
                given |= {"nbits": 4} if word not in ("unique", "custom") else {}
                given |= {"lut_function": len} if word == "custom" else {}
            if scheme is mp.Prune:
                given |= {"target_sparsity": 0.5}
            assert getattr(scheme(**given), name) == word
    with pytest.raises(mp.RecipeError, match="method"):
        scheme(method="nonsense", **({"nbits": 4} if scheme is mp.Palettize else {}))


def test_a_converted_model_keeps_coremltools_own_line(small: mp.CompressedModel):
    assert isinstance(small, ct.models.MLModel)
    assert "input" in str(ct.models.MLModel.__repr__(small))
