"""The estimate of a step's remaining time."""

from milpasses_tools._remaining import Remaining


def test_by_the_speed_of_the_step_and_counting_down() -> None:
    now = 100.0
    remaining = Remaining(lambda: now)
    assert remaining.text() == ""
    remaining.update(0, 1000)
    assert remaining.text() == ""  # nothing is known yet
    now = 110.0
    remaining.update(100, 1000)
    assert remaining.text() == "about 1:30 left"
    now = 115.0
    assert remaining.text() == "about 1:25 left"
    now = 300.0
    assert remaining.text() == "about 0:00 left"


def test_another_step_starts_anew() -> None:
    now = 0.0
    remaining = Remaining(lambda: now)
    remaining.update(1, 2)
    now = 60.0
    remaining.update(2, 2)
    assert remaining.text() == "about 0:00 left"
    remaining.update(0, 500)
    assert remaining.text() == ""
    now = 61.0
    remaining.update(50, 500)
    assert remaining.text() == "about 0:09 left"
    remaining.update(1, 0)
    assert remaining.text() == ""  # no total
