"""Second moments of wide layers: rows of several samples are multiplied together."""

from unittest import mock

import numpy as np

from milpasses.data import moments
from milpasses.data.moments import Moments
from milpasses.program.flows import Flow

GROUPS, WIDTH = 2, 40


def flow_of_rows(rows: np.ndarray) -> Flow:
    return Flow(GROUPS, WIDTH, 1, 1, [rows])


def test_rows_wait_for_others_and_are_in_whatever_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((GROUPS, count, WIDTH)) for count in (3, 4, 1, 9, 2)]
    with mock.patch.object(moments, "_WIDE", WIDTH - 1):
        found = Moments.empty(flow_of_rows(samples[0]), True, "op")
        for index, rows in enumerate(samples):
            found.add(flow_of_rows(rows), sampled=True)
            samples[index] = rows.copy()
            rows[:] = np.nan  # an interpreter may use its memory again
            assert len(found._waiting) == (1, 2, 3, 0, 1)[index]  # up to ten rows: a quarter of the columns
        both = found + found
        for result, times in ((found, 1), (both, 2)):
            every = np.concatenate(samples, axis=1)
            assert result.gram is not None
            np.testing.assert_allclose(
                result.gram, times * every.transpose(0, 2, 1) @ every, rtol=1e-4, atol=1e-4
            )
            assert result.rows == times * 19


def test_narrow_layers_add_each_sample_up() -> None:
    rows = np.random.default_rng(1).standard_normal((GROUPS, 3, WIDTH))
    found = Moments.empty(flow_of_rows(rows), True, "op")
    found.add(flow_of_rows(rows), sampled=True)
    assert not found._waiting
