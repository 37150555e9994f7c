"""What a sweep tries and what it chooses, without a model."""

from typing import Any

import numpy as np
import pytest
from milpasses_tools._sweep.choice import Interval, Limit, choose, exact_bound, pareto, read_size, resampled
from milpasses_tools._sweep.data import divide
from milpasses_tools._sweep.variants import check_names, classic, expand, from_recipe, split_recipes

from milpasses import MilpassesError, Rule, SampleError
from milpasses.recipe.recipe import Recipe


def row(name: str, nbytes: int, right: list[int]) -> dict[str, Any]:
    return {"name": name, "status": "done", "bytes": nbytes, "each": {"accuracy": [float(n) for n in right]}}


ROWS = [
    row("original", 1000, [1] * 90 + [0] * 10),
    row("large", 600, [1] * 90 + [0] * 10),
    row("middle", 400, [1] * 89 + [0] * 11),
    row("other", 390, [0] * 1 + [1] * 88 + [0] * 11),
    row("small", 200, [1] * 60 + [0] * 40),
]


def test_the_smallest_within_the_loss():
    found = choose(ROWS, Limit("loss", 1.0), None, 0)
    assert found is not None
    assert (found.chosen, found.measure, found.samples) == ("middle", "accuracy", 100)
    assert found.losses["middle"].loss == pytest.approx(1.0)
    assert found.losses["middle"].low == 0
    assert 2 <= found.losses["middle"].high <= 4
    assert found.losses["original"] == Interval(0, 0, 0)
    assert found.losses["large"].high == pytest.approx(100 * (1 - 0.05 ** (1 / 100)))
    assert found.front == ("small", "other", "middle", "large")
    assert set(found.alike) == {"large", "other"}
    text = "\n".join(found.words)
    assert "100 samples cannot show that it keeps --max-loss 1" in text
    assert "so does that of every other" in text
    assert "smaller, and not distinguishable from it in accuracy: other (390 bytes)" in text


def test_the_best_within_the_size():
    found = choose(ROWS, Limit("size", 395), None, 0)
    assert found is not None
    assert found.chosen == "other"
    assert choose(ROWS, Limit("size", 100), None, 0).chosen is None  # pyright: ignore[reportOptionalMemberAccess]
    assert choose(ROWS, Limit("size", 5000), None, 0).chosen == "large"  # pyright: ignore[reportOptionalMemberAccess]


def test_no_difference_is_no_proof():
    assert exact_bound(48) == pytest.approx(0.0605, abs=1e-4)
    assert exact_bound(8) == pytest.approx(0.3123, abs=1e-4)
    rows = [row("original", 1000, [1] * 8), row("one", 100, [1] * 8)]
    found = choose(rows, Limit("loss", 1.0), None, 0)
    assert found is not None
    assert found.losses["one"] == Interval(
        0.0, pytest.approx(-31.23, abs=0.01), pytest.approx(31.23, abs=0.01), True
    )
    assert "95 % interval of the loss -31.23 to 31.23; no sample of 8 differs" in found.words[0]
    assert "8 samples cannot show that it keeps --max-loss 1" in found.words[1]


def test_of_equals_the_one_with_the_better_outputs():
    snrs = {"original": "inf", "tiny": 3.0, "good": 40.0, "fair": 20.0}
    sizes = {"original": 1000, "tiny": 100, "good": 400, "fair": 300}
    rows = [{**row(name, sizes[name], [1] * 8), "output_snr_db": snr} for name, snr in snrs.items()]
    found = choose(rows, Limit("size", 500), None, 0)
    assert found is not None
    assert found.chosen == "good"


def test_of_equal_outputs_the_one_that_is_surer_of_the_right_class():
    own = {"original": 0.9, "sure": 0.8, "smaller": 0.7, "unknown": None}
    sizes = {"original": 1000, "sure": 400, "smaller": 300, "unknown": 200}
    rows = [
        {**row(name, sizes[name], [1] * 8), "output_snr_db": 20.0, "own_class": share}
        for name, share in own.items()
    ]
    found = choose(rows, Limit("size", 500), None, 0)
    assert found is not None
    assert found.chosen == "sure"


def test_nothing_keeps_the_limit():
    found = choose([ROWS[0], ROWS[4]], Limit("loss", 1.0), None, 0)
    assert found is not None
    assert found.chosen is None
    assert found.words == (
        "no smaller variant keeps --max-loss 1: small comes nearest and loses 30.00 points of accuracy",
    )


def test_what_failed_or_was_not_measured_is_no_choice():
    failed = {"name": "broken", "status": "failed", "error": "x"}
    odd = {**row("odd", 1, [1]), "each": {"accuracy": []}}
    found = choose([*ROWS, failed, odd], Limit("loss", 1.0), None, 0)
    assert found == choose(ROWS, Limit("loss", 1.0), None, 0)
    assert choose([{**ROWS[0], "each": {}}], Limit("loss", 1.0), None, 0) is None
    with pytest.raises(MilpassesError, match="--by beauty: not measured for each sample; there is accuracy"):
        choose(ROWS, Limit("loss", 1.0), "beauty", 0)


def test_resampling_is_the_bootstrap():
    values = np.random.default_rng(1).random((3, 40))
    drawn = resampled(values, 7, 4000)
    assert drawn.shape == (4000, 3)
    np.testing.assert_array_equal(drawn, resampled(values, 7, 4000))
    np.testing.assert_allclose(drawn.mean(axis=0), values.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), values.std(axis=1) / np.sqrt(40), rtol=0.05)
    # Paired: the same samples are drawn for each variant.
    same = resampled(np.stack([values[0], values[0] + 1]), 7, 100)
    np.testing.assert_allclose(same[:, 1] - same[:, 0], 1)


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(2)
    sizes, scores = rng.integers(1, 20, 30).tolist(), rng.integers(0, 10, 30).tolist()
    found = pareto(sizes, scores)

    def beaten(at: int) -> bool:
        return any(
            sizes[other] <= sizes[at]
            and scores[other] >= scores[at]
            and (sizes[other], scores[other]) != (sizes[at], scores[at])
            for other in range(30)
        )

    front = {(sizes[at], scores[at]) for at in found}
    assert front == {(sizes[at], scores[at]) for at in range(30) if not beaten(at)}
    assert len(front) == len(found)


@pytest.mark.parametrize(
    ("text", "expected"), [("1.2MB", 1_200_000), ("900 KiB", 921_600), ("1_000", 1000), ("5,000 b", 5000)]
)
def test_sizes(text: str, expected: int):
    assert read_size(text) == expected


def test_what_is_no_size():
    with pytest.raises(MilpassesError, match="--max-size takes bytes"):
        read_size("small")


def test_patterns_of_recipes():
    assert expand("pal{2,4}-g{8,16}") == ["pal2-g8", "pal2-g16", "pal4-g8", "pal4-g16"]
    assert expand("sparse{25,50}+pal{3..5}")[:3] == ["sparse25+pal3", "sparse25+pal4", "sparse25+pal5"]
    assert expand("int8") == ["int8"]
    for wrong in ("pal{2", "pal2}", "pal{{2}}"):
        with pytest.raises(MilpassesError, match="braces that do not match"):
            expand(wrong)
    with pytest.raises(MilpassesError, match="stands for more than 1,000 recipes"):
        expand("a{1..100}b{1..100}")
    assert split_recipes(["int8,pal4", "palettize(nbits=4, mode=uniform), pal2"]) == [
        "int8",
        "pal4",
        "palettize(nbits=4, mode=uniform)",
        "pal2",
    ]


def test_variants():
    names = [variant.name for variant in classic()]
    assert len(names) == len(set(names)) == 27
    assert names[0] == "linear_16"
    assert from_recipe("int8").text == "int8"
    kept = Recipe("int8", [Rule(where=lambda weight: True, scheme="keep")])  # pyright: ignore[reportArgumentType]
    assert from_recipe(kept).text is None
    assert [one.name for one in check_names([from_recipe("int8"), from_recipe("int8")])] == ["int8"]
    with pytest.raises(MilpassesError, match="two variants are called"):
        check_names([from_recipe(kept), from_recipe(kept)])


def test_only_recipes_that_need_it_tune_on_data():
    assert from_recipe("int4-gptq").calibrated
    assert not from_recipe("int4").calibrated


def test_the_split_is_seeded_and_takes_from_each_class():
    labels = tuple("abcd"[at % 4] for at in range(40))
    measured, aside = divide(labels, 0.25, 3)
    assert sorted(measured + aside) == list(range(40))
    assert len(aside) == 8  # two of ten in each class: round(2.5) is even
    assert {labels[at] for at in aside} == set("abcd")
    assert divide(labels, 0.25, 3) == (measured, aside)
    assert divide(labels, 0.25, 4) != (measured, aside)
    assert divide(labels, 0, 3) == (tuple(range(40)), ())
    with pytest.raises(SampleError, match="nothing is left to measure"):
        divide(("a",), 0.5, 0)
    with pytest.raises(SampleError, match="--calibration is a share"):
        divide(labels, 1.5, 0)
