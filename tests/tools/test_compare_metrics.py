"""What ``compare`` measures, against NumPy and coremltools."""

import json
import math
from typing import Any

import numpy as np
import pytest
from compare_programs import draw, program, scaled
from coremltools.converters.mil import Builder as mb
from milpasses_tools._compare.comparison import Comparison
from milpasses_tools._compare.metrics import (
    AccuracySums,
    Agreement,
    ErrorSums,
    OutputSums,
    kind_of,
    probabilities,
)
from milpasses_tools.compare import accuracy

from milpasses.data.samples import Sample
from milpasses.errors import MilpassesError

INF = math.inf


class TestErrors:
    def test_over_all_samples(self):
        a, b = draw(3, 200_000), draw(3, 200_000)
        b = a + 0.01 * b
        sums = ErrorSums()
        for x, y in zip(a, b, strict=True):
            sums.add(x, y)
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        assert sums.count == x.size
        assert sums.snr_db == pytest.approx(10 * np.log10((x @ x) / ((x - y) @ (x - y))))
        assert sums.psnr_db() == pytest.approx(10 * np.log10((x**2).max() / ((x - y) ** 2).mean()))
        assert sums.psnr_db(2.0) == pytest.approx(10 * np.log10(4 / ((x - y) ** 2).mean()))
        assert sums.largest == np.abs(x - y).max()
        assert sums.mean_error == pytest.approx(np.abs(x - y).mean())
        assert sums.cosine == pytest.approx((x @ y) / np.linalg.norm(x) / np.linalg.norm(y))

    def test_are_coremltools_own(self):
        theirs = pytest.importorskip("coremltools.converters.mil.testing_utils")  # needs pillow
        a, b = draw(1000), draw(1000)
        sums = ErrorSums()
        sums.add(a, b)
        assert (sums.snr_db, sums.psnr_db()) == pytest.approx(theirs.compute_snr_and_psnr(b, a), abs=1e-3)

    def test_nothing_differs(self):
        sums = ErrorSums()
        sums.add(draw(5), draw(5) * 0)
        assert sums.snr_db == pytest.approx(0)
        exact, zeros = ErrorSums(), ErrorSums()
        same = np.array([1.0, -INF, np.nan], np.float32)
        exact.add(same, same.copy())
        zeros.add(np.zeros(3), np.zeros(3))
        for one in (exact, zeros):
            assert (one.snr_db, one.psnr_db(), one.largest, one.mean_error, one.cosine) == (INF, INF, 0, 0, 1)
        noise = ErrorSums()
        noise.add(np.zeros(3), np.ones(3))
        assert (noise.snr_db, noise.cosine) == (-INF, 0)

    @pytest.mark.parametrize("bad", [np.nan, INF])
    def test_a_value_that_is_finite_in_one_alone_is_infinite_noise(self, bad: float):
        for a, b in (
            ([1.0, bad], [1.0, 2.0]),
            ([1.0, 2.0], [1.0, bad]),
            ([bad], [-bad if bad == INF else 1.0]),
        ):
            sums = ErrorSums()
            sums.add(np.array(a), np.array(b))
            assert (sums.snr_db, sums.psnr_db(), sums.largest, sums.mean_error) == (-INF, -INF, INF, INF)
            assert math.isnan(sums.cosine)


class TestOwnClass:
    def test_probabilities_stay_and_scores_become_some(self):
        scores = np.array([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0], [2.0, 0.0, -1000.0], [np.nan, 1.0, 0.0]])
        found = probabilities(scores)
        np.testing.assert_array_equal(found[0], scores[0])
        np.testing.assert_allclose(found[1], 1 / 3)
        np.testing.assert_allclose(found[2], [np.exp(2) / (np.exp(2) + 1), 1 / (np.exp(2) + 1), 0])
        np.testing.assert_array_equal(found[3], 0)

    def test_the_mean_over_samples_that_have_a_label(self):
        sums = AccuracySums(None, 1)
        assert sums.own_class is None
        for label, scores in ((0, [0.75, 0.25]), (1, [0.75, 0.25]), (None, [0.0, 1.0])):
            sums.add({"scores": np.array([scores], np.float32)}, Sample({}, label, ""))
        assert sums.own_class == pytest.approx(0.5)


class TestAgreement:
    def test_first_and_among_k(self):
        a = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [9, 0, 0, 0]])
        b = np.array([[3.0, 2, 1, 0], [0, 3, 4, 2], [0, 1, 2, 3]])
        sums = Agreement(3)
        sums.add(a, b)
        assert (sums.rows, sums.first, sums.among) == (3, 1, 2)

    def test_equal_scores_are_all_among_the_first(self):
        sums = Agreement(1)
        sums.add(np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]]))
        assert (sums.first, sums.among) == (0, 1)

    def test_nan_agrees_with_nothing(self):
        sums = Agreement(5)
        sums.add(np.array([[np.nan, 1.0]] * 2), np.array([[np.nan, 1.0], [0.0, 1.0]]))
        sums.add(np.array([[0.0, 1.0]]), np.array([[np.nan, 1.0]]))
        assert (sums.rows, sums.first, sums.among) == (3, 0, 0)

    def test_what_an_output_is(self):
        outputs = {
            "p": {"cat": 1.0},
            "label": "cat",
            "index": np.array(3),
            "photo": np.zeros((2, 2, 3), np.uint8),
            "logits": draw(1, 5),
            "features": draw(1, 5, 2),
            "size": np.array([1, 2]),
        }
        kinds = ["probabilities", "label", "label", "image", "scores", "array", "array"]
        assert [kind_of(name, value, outputs, None) for name, value in outputs.items()] == kinds
        assert kind_of("features", outputs["features"], outputs, "features") == "scores"
        assert kind_of("count", np.array(3), {"count": np.array(3)}, None) == "array"


class TestAccuracy:
    SCORES = {  # noqa: RUF012
        "x": np.eye(4, dtype=np.float32)[[0, 1, 2, 2, 3]]
        + 0.1 * np.eye(4, k=1, dtype=np.float32)[[0, 1, 2, 2, 3]]
    }

    def test_by_class_and_in_all(self):
        found = accuracy(scaled(1), {**self.SCORES, "labels": [0, 2, 2, 3, 3]}, top_k=2)
        assert (found.count, found.top1, found.top_k, found.k) == (5, 0.6, 1.0, 2)
        assert [(c.label, c.count, c.top1, c.top_k) for c in found.classes] == [
            (0, 1, 1, 1), (2, 2, 0.5, 1), (3, 2, 0.5, 1),
        ]  # fmt: skip
        assert "not an emulation of Core ML" in found.note
        assert found.data == "arrays"

    def test_of_a_batch(self):
        data = [({"x": self.SCORES["x"]}, (0, 2, 2, 3, 3))]
        found = accuracy(scaled(1, shape=(5, 4)), data)
        assert (found.count, found.top1) == (5, 0.6)
        with pytest.raises(MilpassesError, match=r"item\[0\]: 2 labels for 5 rows of output out"):
            accuracy(scaled(1, shape=(5, 4)), [({"x": self.SCORES["x"]}, (0, 2))])

    def test_equal_scores_and_nan(self):
        sums = AccuracySums(None, 1)
        sums.add({"s": np.array([[1.0, 1.0]])}, Sample({}, 1))
        sums.add({"s": np.array([[np.nan, 1.0]])}, Sample({}, 0))
        found = sums.result("", "")
        assert found is not None
        assert [(c.top1, c.top_k) for c in found.classes] == [(0, 0), (0, 1)]

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (
                4,
                r"the arrays\[1\]: label '4' is no index of a class, 0 to 3: the model does not name its",
            ),
            ("cat", "label 'cat' is no index"),
            (-1, "label '-1' is no index"),
        ],
    )
    def test_labels_must_be_indices_where_classes_have_no_names(self, label: Any, message: str):
        with pytest.raises(MilpassesError, match=message):
            accuracy(scaled(1), {"x": self.SCORES["x"][:2], "labels": np.array([0, label])})

    def test_classes_with_names(self):
        def count(label: Any, classes: Any) -> Any:
            sums = AccuracySums(None, 1)
            sums.add({"label": "b", "p": dict(zip(classes, (0.1, 0.9), strict=True))}, Sample({}, label, "s"))
            found = sums.result("", "")
            assert found is not None
            return found.classes[0].label, found.top1

        assert count("b", ("a", "b")) == ("b", 1)
        assert count("a", ("a", "b")) == ("a", 0)
        assert count(1, ("a", "b")) == ("b", 1)  # by index where no class has that name
        assert count("7", (5, 7)) == (7, 1)  # a folder's name is text
        assert count(5, (5, 7)) == (5, 0)
        assert count("hot_dog", ("bun", "Hot dog")) == ("Hot dog", 1)  # as a folder is spelled
        for label, classes in (("c", ("a", "b")), (2, ("a", "b")), (1, (5, 7)), ("x_y", ("x y", "X-Y"))):
            with pytest.raises(MilpassesError, match=f"s: the model knows no class '{label}'; it knows "):
                count(label, classes)

    def test_needs_labels_and_scores(self):
        with pytest.raises(MilpassesError, match="needs labels"):
            accuracy(scaled(1), self.SCORES)
        two = program(lambda x: (mb.mul(x=x, y=2.0, name="one"), mb.mul(x=x, y=3.0, name="two")), (1, 4))
        labelled = {**self.SCORES, "labels": [0, 2, 2, 3, 3]}
        with pytest.raises(MilpassesError, match="outputs one, two could all be class scores: name one"):
            accuracy(two, labelled)
        assert accuracy(two, labelled, scores="two").top1 == 0.6
        with pytest.raises(MilpassesError, match="no output three; the model's outputs are one, two"):
            accuracy(two, labelled, scores="three")


class TestNothingFinite:
    """Two outputs of NaN alone are not equal: nothing was compared."""

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_no_figure_is_known_and_no_limit_kept(self, value: float):
        sums = OutputSums("y", "array", 5)
        sums.add(np.full((2, 3), value, np.float32), np.full((2, 3), value, np.float32))
        found = sums.result()
        figures = found.snr_db, found.psnr_db, found.max_error, found.mean_error, found.cosine
        assert all(figure is not None and math.isnan(figure) for figure in figures)
        comparison = Comparison("a", "b", "data", 1, False, "note", 5, (found,))
        assert len(comparison.misses(min_snr=-1000.0, max_error=1e30)) == 2
        json.loads(comparison.to_json())

    def test_nor_of_empty_outputs(self):
        sums = OutputSums("y", "array", 5)
        sums.add(np.zeros((0, 4)), np.zeros((0, 4)))
        snr = sums.result().snr_db
        assert snr is not None
        assert math.isnan(snr)

    def test_one_finite_value_is_compared(self):
        sums = OutputSums("y", "array", 5)
        sums.add(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))
        assert sums.result().snr_db == math.inf
        sums.add(np.array([np.nan]), np.array([1.0]))
        assert sums.result().snr_db == -math.inf
