"""A sensitivity table as JSON: what comes back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from milpasses.budget import Option, Sensitivity, WeightOptions
from milpasses.errors import MilpassesError

WEIGHT = WeightOptions(
    name="first",
    content="2x3:0123456789abcdef",
    shape=(2, 3),
    dtype="float16",
    nbytes=128,
    options=(
        Option("keep", "as it is", 128, 0.0, 0.0),
        Option("pal4", "lut4 per_tensor", 120, 0.01, 0.02, 17.5),
    ),
    basis="statistics",
    gain=0.5,
    refused={"int4-b32": "block_size 32 does not divide 3 channels"},
)
TABLE = Sensitivity(
    (WEIGHT, attrs.evolve(WEIGHT, name="second", pinned=True)), ("pal4",), 12, 64, "probed", "x"
)


def content(**changed: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(TABLE.to_dict(), allow_nan=False)), **changed}


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content()), encoding="utf-8")
    assert Sensitivity.from_dict(content()) == Sensitivity.of(path) == Sensitivity.of(TABLE) == TABLE


def test_the_form_is_that_of_the_fields() -> None:
    assert list(content()) == [
        "milpasses_sensitivity", "weights", "candidates", "elements", "fixed_bytes", "how", "data",
            "notes",
    ]  # fmt: skip
    assert content()["milpasses_sensitivity"] == 2
    assert content()["weights"][0]["options"][1] == {
        "scheme": "pal4",
        "form": "lut4 per_tensor",
        "nbytes": 120,
        "output_error": 0.01,
        "layer_error": 0.02,
        "sqnr_db": 17.5,
    }


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({}, "not a sensitivity table, or damaged .*milpasses_sensitivity"),
        ([], "not a sensitivity table, or damaged"),
        (None, "not a sensitivity table, or damaged"),
        (content(milpasses_sensitivity=1), "version 1; this milpasses reads version 2: compute it again"),
        (content(elements="many"), r"damaged \(invalid value for type, expected int @ \$\.elements\)"),
        (content(weights=3), r"damaged \(.* @ \$\.weights\)"),
        (content(weights=[{}]), r"damaged \(required field missing @ \$\.weights\[0\]\.name"),
        (content(unheard=1), r"extra fields found \(unheard\)"),
    ],
)
def test_what_is_no_table_says_where(damaged: Any, message: str) -> None:
    with pytest.raises(MilpassesError, match=message):
        Sensitivity.from_dict(damaged)


def test_what_is_neither_a_table_nor_a_path(tmp_path: Path) -> None:
    with pytest.raises(MilpassesError, match="sensitivity: expected a table or the path of one, not 3"):
        Sensitivity.of(3)
    path = tmp_path / "table.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(MilpassesError, match=r"table\.json: Expecting"):
        Sensitivity.of(path)
