"""Tables on a terminal of 80 columns: no word is broken, nothing is lost; a pipe gets whole lines."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run
from milpasses_tools._table import columns_that_fit, print_table

COLUMNS = ["weight", "shape", ">bits", ">bytes", "why", "to change it"]
ROWS = [
    ["layers_0_weight_to_fp16", "64x64x3x3", 16.0, 73_728, "nothing compressed it yet", None],
    [
        "layers_1_weight_to_fp16", "64x3x3x3", 16.0, 3_456, "1,728 elements <= weight_threshold 2,048",
        "min_elements=0 in a Rule: name=layers_1_weight_to_fp16 min_elements=0 -> int8",
    ],
]  # fmt: skip
Terminal = Callable[[int], None]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stdout a terminal of so many columns, without colours."""

    def make(columns: int) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    return make


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_word_is_broken_and_none_is_lost(
    capsys: pytest.CaptureFixture[str], terminal: Terminal, width: int
):
    terminal(width)
    print_table(COLUMNS, ROWS)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for row in ROWS:
        for value in row:
            for word in str(value if not isinstance(value, int) else f"{value:,}").split():
                if value is not None and not isinstance(value, float):
                    assert word in words(shown), word
    assert words(shown).count("16.00") == 2
    text = re.sub(r"\s+", " ", shown)
    assert (
        "to change it: min_elements=0 in a Rule: name=layers_1_weight_to_fp16 min_elements=0 -> int8" in text
    )


def test_what_fits_is_a_plain_table(capsys: pytest.CaptureFixture[str], terminal: Terminal):
    terminal(80)
    print_table(["name", ">count"], [["a", 1], ["bcd", 1000]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["name  count", "a         1", "bcd   1,000"]


def test_many_numbers_flow_beneath_the_row(capsys: pytest.CaptureFixture[str], terminal: Terminal):
    terminal(80)
    names = [f"pal{n}-g16" for n in range(14)]
    print_table(["weight", *(f">{name}" for name in names)], [["w", *(float(n) for n in range(14))]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    for n, name in enumerate(names):
        inline = name in lines[0].split()
        assert inline or re.search(rf"{name} {n}\.00(?!\d)", text), name
        assert not any(line.rstrip().endswith(name) for line in lines[1:])  # a name stays with its figure


def test_a_mark_takes_the_name_with_it(capsys: pytest.CaptureFixture[str], terminal: Terminal):
    terminal(30)
    print_table(["", "variant", ">bytes", "note"], [["*", "pal4", 1000, "a note that is quite long"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["   variant  bytes", "*  pal4     1,000", "    note: a note that is quite", "    long"]


def test_the_widest_text_goes_first():
    right = [False, False, True, True, False]
    assert columns_that_fit(right, [20, 10, 5, 5, 60], 80) == [0, 1, 2, 3]
    assert columns_that_fit(right, [20, 10, 5, 5, 60], 40) == [0, 2, 3]
    assert columns_that_fit(right, [20, 10, 5, 5, 60], 30) == [0, 2]
    assert columns_that_fit(right, [200, 10, 5, 5, 60], 80) == [0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "MODEL"],
        ["explain", "MODEL", "-r", "int4-b32"],
        ["compress", "MODEL", "-r", "pal4", "-o", "OUT", "--verbose"],
        ["sensitivity", "MODEL"],
        ["compare", "MODEL", "MODEL", "--samples", "1", "--per-op"],
        ["sweep", "MODEL", "-r", "int8,pal1", "--samples", "2", "-o", "DIR"],
    ],
)
def test_commands_fit_eighty_columns(
    milpasses_command: Run,
    digits_packages: dict[str, Path],
    tmp_path: Path,
    terminal: Terminal,
    arguments: list[str],
):
    places = {"MODEL": digits_packages["iOS18"], "OUT": tmp_path / "o.mlpackage", "DIR": tmp_path / "out"}
    asked = [places.get(one, one) for one in arguments]
    piped = milpasses_command(*asked).out
    terminal(80)
    if "OUT" in arguments or "DIR" in arguments:
        asked.append("--force")
    shown = milpasses_command(*asked).out
    table = piped.split("\n\n")[0].splitlines()
    names = {line.split()[0] for line in table[1:] if line[:1].isalnum()}
    assert names <= set(words(shown))  # no name of a weight is broken
    broken = [
        line for line in shown.splitlines() if len(line) > 80 and not re.search(r"/|:|, |\. |;", line)
    ]  # sentences wrap by the terminal; tables do not
    assert not broken
