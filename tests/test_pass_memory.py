"""The bench's measurement of the memory that a compression pass takes."""

from importlib import import_module
from typing import Any

import pytest

pytest.importorskip("torch")
pass_memory: Any = import_module("bench.pass_memory")


@pytest.mark.parametrize("library", ["milpasses", "coremltools"])
def test_the_weights_and_their_codes_are_seen(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_memory, "WIDE", 512)
    monkeypatch.setattr(pass_memory, "NARROW", 256)
    alive = pass_memory.measured(library, "int8", 3)
    assert alive["weights"] == 3 * 512 * 256 * 2
    assert alive["weights"] <= alive["before"] <= 1.5 * alive["weights"]
    assert alive["highest"] >= alive["after"] >= alive["weights"] / 2
    assert alive["highest"] >= alive["before"] + alive["weights"] / 6  # the codes of one weight at least


@pytest.mark.parametrize("recipe", ["int8", "pal4"])
def test_the_pass_frees_weights_as_it_goes(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_memory, "WIDE", 1024)
    monkeypatch.setattr(pass_memory, "NARROW", 512)
    alive = pass_memory.measured("milpasses", recipe, 32)
    assert alive["highest"] <= 1.3 * alive["weights"]
