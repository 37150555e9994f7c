"""Targets: what each has, and that a new one is one entry."""

import coremltools as ct
import pytest

from milpasses.budget.candidates import read_candidates
from milpasses.encoding.generation import IOS18
from milpasses.errors import TargetError
from milpasses.program import opset
from milpasses.program.opset import OPSETS, Opset, check_target, lowest_opset, opset_of
from milpasses.recipe.schemes import Scheme

MADE_UP = Opset("iOS99", 99, IOS18, integer_bits=(8,), joint=True)  # no groups, blocks, vectors, 4 bits


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Opset:
    monkeypatch.setattr(opset, "OPSETS", (*OPSETS, MADE_UP))
    return opset_of(99)


class TestATargetByOneEntry:
    @pytest.mark.parametrize(
        ("scheme", "missing"),
        [
            ("int8", None),
            ("pal3", None),
            ("sparse50+pal4", None),
            ("int4", "4-bit quantization"),
            ("int8-b32", "per_block quantization"),
            ("pal4-g16", "per_grouped_channel palettization"),
            ("pal4-v2", "vector palettization"),
        ],
    )
    def test_is_asked_what_it_has(self, made_up: Opset, scheme: str, missing: str | None) -> None:
        assert made_up.missing(Scheme.parse(scheme)) == missing
        if missing is None:
            check_target(Scheme.parse(scheme), made_up, "weight")
        else:
            with pytest.raises(TargetError, match=f"The {missing} is supported since iOS18"):
                check_target(Scheme.parse(scheme), made_up, "weight")

    def test_candidates_are_those_it_has(self, made_up: Opset) -> None:
        names = list(read_candidates(None, made_up))
        assert "pal3" in names
        assert not any("-g" in name or "int4" in name for name in names)


def test_every_target_of_coremltools_is_known() -> None:
    assert {target.name: int(target) for target in ct.target} == {one.name: one.version for one in OPSETS}


def test_a_newer_one_has_what_the_newest_has() -> None:
    newer = opset_of(OPSETS[-1].version + 1, "CoreML99")
    assert newer.name == "CoreML99"
    assert newer.missing(Scheme.parse("pal4-g16")) is None


def test_the_lowest_that_has_everything() -> None:
    assert lowest_opset([Scheme.parse("int8"), Scheme.parse("pal4")]).name == "iOS16"
    assert lowest_opset([Scheme.parse("int8"), Scheme.parse("pal3")]).name == "iOS18"
    assert opset_of(6).missing(Scheme.parse("int8")) == "compressed weights"
