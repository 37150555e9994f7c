"""Messages of the library in the words of the command."""

import ast
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import milpasses_tools
import pytest
import typer
from milpasses_tools import cli
from milpasses_tools._words import ARGUMENTS, in_options, speak_for, words_of

import milpasses
from milpasses import budget, neuralnetwork
from milpasses.encoding.encodings import _share_text
from milpasses.errors import Refusal, TargetError
from milpasses.program.opset import check_target, opset_of
from milpasses.recipe import Scheme
from milpasses.report import _rounded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exists already; force=True replaces it", "exists already; --force replaces it"),
        ("pass minimum_deployment_target=ct.target.iOS16 or later", "pass --target iOS16 or later"),
        ("pass calibration=data (samples) or statistics=", "pass --data DATA (samples) or --statistics FILE"),
        ("give statistics=milpasses.statistics(model, full=True)", "give --statistics FILE"),
        ("decibels (tolerance=40)", "decibels (--tolerance 40)"),
        ("a rule min_elements=0", "a rule min_elements=0"),
    ],
)
def test_arguments_become_options(text: str, expected: str):
    assert in_options(text) == expected


def test_what_needs_a_newer_target_says_which():
    with pytest.raises(TargetError) as refused:
        check_target(Scheme.of("int4-b32"), opset_of(7), "w")
    assert "minimum_deployment_target=ct.target.iOS18" in str(refused.value)
    said = in_options(str(refused.value))
    assert "give --target iOS18" in said
    assert "minimum_deployment_target" not in said


def test_only_all_zeros_are_a_hundred_percent():
    shares = [_share_text(count, 10_000) for count in (5_000, 9_950, 9_999, 10_000)]
    assert shares == ["50%", "99.5%", "99.99%", "100%"]


def test_a_total_loss_is_no_exact_copy():
    assert (_rounded(math.inf), _rounded(-math.inf)) == ("inf", "-inf")


def test_reasons():
    assert "every element is zero" in str(Refusal("all-zero"))
    assert "calibration=data" in str(Refusal("needs-calibration", scheme="pal4-gptq"))


class TestTheCommandThatRuns:
    """The same message, in the words of each command."""

    @pytest.fixture
    def options(self) -> dict[str, frozenset[str]]:
        group = typer.main.get_command(cli.app)
        return {name: cli.options_of(command) for name, command in group.commands.items()}  # pyright: ignore

    @pytest.mark.parametrize(
        ("command", "text", "expected"),
        [
            ("compress", "pass calibration=data or statistics=", "pass --data DATA or --statistics FILE"),
            ("sweep", "or statistics=", "or --statistics FILE (of milpasses compress)"),
            ("quantize-nn", "nbits=9: give 1 to 8", "--bits 9: give 1 to 8"),
            ("compress", "palettize(nbits=4, method=gptq)", "palettize(nbits=4, method=gptq)"),
            ("compress", 'budget="4 bits"', '--budget "4 bits"'),
            ("sensitivity", "a part= of a, b", "a --part NAME of a, b"),
            ("explain", "minimum_deployment_target=ct.target.iOS18", "--target iOS18"),
        ],
    )
    def test_has_its_own_options(
        self, options: dict[str, frozenset[str]], command: str, text: str, expected: str
    ):
        with words_of(options):
            speak_for(command)
            assert in_options(text) == expected

    def test_every_argument_that_a_message_names_has_an_option(self, options: dict[str, frozenset[str]]):
        everywhere = frozenset[str]().union(*options.values())
        named = dict(messages_with_arguments())
        assert len(named) > 25  # the scan finds them
        unknown = sorted({name for names in named.values() for name in names} - ARGUMENTS.keys() - IN_PYTHON)
        assert not unknown, f"no option stands for {unknown}: {named}"
        for name, stands in ARGUMENTS.items():
            assert set(stands) <= everywhere, name
        for text in named:
            said = in_options(text)
            left = set(re.findall(r"\b(\w+)=", said)) & (ARGUMENTS.keys() - {"nbits"})
            assert not left, said

    def test_no_message_speaks_of_an_argument_without_saying_so(self):
        bare = [text for text in messages() if BARE.search(text) and "re-convert" not in text]
        assert not bare, "\n".join(bare)


# Arguments that no command has: their messages cannot come from one, or name what only Python has.
IN_PYTHON = {"full", "held_out", "input_shapes", "precision", "sample_data"}
_ENTRY_POINTS = (
    milpasses.compress, milpasses.decompress, milpasses.statistics, milpasses.pipeline, milpasses.Samples.of,
    budget.fit, budget.sensitivity, neuralnetwork.upgrade, neuralnetwork.quantize_weights,
    *(getattr(milpasses_tools, name) for name in milpasses_tools.__all__),
)  # fmt: skip
_RECIPES = (
    milpasses.Palettize, milpasses.Quantize, milpasses.Prune, milpasses.Rule, milpasses.Recipe,
    milpasses.Activations,
)  # fmt: skip
_FIELDS = {field.name for scheme in _RECIPES for field in attrs.fields(scheme)}
_NAMES = {name for point in _ENTRY_POINTS for name in inspect.signature(point).parameters} - _FIELDS
BARE = re.compile(rf"(?<![-\w.=])(?:{'|'.join(name for name in _NAMES if '_' in name)})(?![=\w-])")
_ROOTS = [Path(milpasses.__file__).parent, Path(cli.__file__).parent]


def messages() -> Iterator[str]:
    """Every text of the sources that people may read: no docstrings, no single words."""
    for path in (path for root in _ROOTS for path in root.rglob("*.py")):
        if path.name == "_words.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        inside |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if node in inside:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
                )


def messages_with_arguments() -> Iterator[tuple[str, set[str]]]:
    """The texts that name arguments of an entry point as ``name=``, and which."""
    pattern = re.compile(rf"(?<![\w({{])({'|'.join(_NAMES | {'nbits'})})=(?!=)")
    for text in messages():
        names = set(pattern.findall(text))
        if names:
            yield text, names
