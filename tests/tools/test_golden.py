"""What the golden texts of ``dump`` cover; ``test_dump.py`` holds the texts themselves to be as they were."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
GOLDEN = sorted((FOLDER / "golden").glob("*.mil"))
OP = re.compile(r"^ *%.* = (\w+)\(", re.M)


def ops(path: Path) -> set[tuple[str, str]]:
    """(target, op type) of every op."""
    text = path.read_text(encoding="utf-8")
    (target,) = set(re.findall(r"^func \w+<(\w+)>", text, re.M))
    return {(target, op) for op in OP.findall(text)}


def test_every_compressed_form_of_both_op_generations_has_one():
    found = set().union(*map(ops, GOLDEN))
    ios16 = ("affine_dequantize", "lut_to_dense", "sparse_to_dense", "cast")
    ios18 = (
        "blockwise_shift_scale",
        "lut_to_dense",
        "sparse_to_dense",
        "lut_to_sparse",
        "sparse_blockwise_shift_scale",
    )
    wanted = {("iOS16", f"constexpr_{op}") for op in ios16} | {("iOS18", f"constexpr_{op}") for op in ios18}
    assert wanted <= found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("branches", {"cond"}),
        ("loop", {"while_loop"}),
        ("state", {"read_state", "coreml_update_state"}),
        ("lists", {"make_list", "list_write", "list_scatter", "list_read", "list_gather", "list_length"}),
        ("outputs", {"split", "concat", "gather"}),
    ],
)
def test_control_flow_states_and_lists_have_one(name: str, expected: set[str]):
    assert expected <= {op for _, op in ops(FOLDER / "golden" / f"{name}.mil")}


def test_functions_have_one():
    text = (FOLDER / "golden" / "functions.mil").read_text(encoding="utf-8")
    assert re.findall(r"^func (\w+)", text, re.M) == ["main", "other"]


def test_there_are_more_than_twenty():
    assert len(GOLDEN) > 20


def test_texts_of_two_runs_are_the_same():
    names = ["functions", "lists", "branches", "matmul"]
    code = (
        "import logging, sys; logging.disable()\n"
        f"sys.path[:0] = [{str(FOLDER)!r}, {str(FOLDER.parent)!r}]\n"
        "from milpasses_tools import dump; from programs import PROGRAMS\n"
        f"for name in {names}: sys.stdout.write(dump(PROGRAMS[name]()))\n"
    )
    expected = "".join((FOLDER / "golden" / f"{name}.mil").read_text(encoding="utf-8") for name in names)
    # The text of the first run is the golden one; this run hashes otherwise.
    environment = {"PYTHONHASHSEED": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == expected
