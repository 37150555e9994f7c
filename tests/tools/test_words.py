"""Messages of the library in the words of the command."""

import math

import pytest
from milpasses_tools._words import in_options

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
