"""``one_thread``: one thread for BLAS and OpenMP, in each thread that asks for it."""

import threading

import pytest
from milpasses_tools._sweep.threads import one_thread
from threadpoolctl import threadpool_info, threadpool_limits

torch = pytest.importorskip("torch")
LIMIT = 600  # seconds; only a test that hangs meets it


def counts() -> dict[str, int]:
    """The threads that each BLAS and OpenMP, and torch, would use here."""
    found = {str(pool["filepath"]): int(pool["num_threads"]) for pool in threadpool_info()}
    return found | {"torch": torch.get_num_threads()}


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    torch.set_num_threads(before)


def test_one_inside_and_as_before_outside() -> None:
    before = counts()
    assert set(before.values()) == {2}
    with one_thread():
        assert set(counts().values()) == {1}
        with one_thread():
            assert set(counts().values()) == {1}
        assert set(counts().values()) == {1}
    assert counts() == before


def test_a_thread_that_leaves_lifts_no_limit_of_others() -> None:
    before = counts()
    seen: list[dict[str, int]] = []

    def other() -> None:
        with one_thread():
            seen.append(counts())

    with one_thread():
        for _ in range(2):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(LIMIT)
            seen.append(counts())
    assert [set(each.values()) for each in seen] == [{1}] * 4
    assert counts() == before


def test_an_error_lifts_the_limit() -> None:
    before = counts()
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert counts() == before
