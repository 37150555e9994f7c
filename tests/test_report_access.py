"""A report answers by name and by place."""

import pytest

from milpasses import Record, Report


def record(name: str) -> Record:
    return Record(name, "kept", "dense", (2, 2), "fp16", 8, 8)


def test_a_report_answers_by_place_as_by_name() -> None:
    report = Report(records=[record("a"), record("b")])
    assert report[0] is report["a"]
    assert report[-1] is report["b"]
    with pytest.raises(IndexError):
        report[2]
    with pytest.raises(KeyError, match="no weight 'c'"):
        report["c"]


def test_the_repr_of_a_report_is_one_line() -> None:
    small = Record("c", "compressed", "lut4", (4, 4), "fp16", 2048, 520)
    text = repr(Report(records=[record("a"), small]))
    assert text == "<Report: 1 of 2 weights compressed, 2,056 -> 528 bytes>"
