"""A sweep that is interrupted, or whose workers die: the same table, nothing measured twice, no half file."""

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Run
from milpasses_tools import sweep
from milpasses_tools._sweep.run import Estimate
from milpasses_tools._sweep.store import Store
from sweep_cases import RECIPES, Fatal, Slow, finished, save_data, table

from milpasses import MilpassesError

SAMPLES = 20
LIMIT = 600  # seconds; only a test that hangs meets it
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data") / "digits.npz")


@pytest.fixture(scope="module")
def model(digits_packages: dict[str, Path]) -> Path:
    return digits_packages["iOS18"]


@pytest.fixture(scope="module")
def expected(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The table of a sweep that nothing disturbs."""
    folder = tmp_path_factory.mktemp("expected") / "out"
    sweep(model, folder, RECIPES, data, samples=SAMPLES)
    return table(folder)


def killed_after(seconds: float, work: Callable[[], object]) -> None:
    """Do ``work`` in a child of this process and kill that after ``seconds``, unless it has ended by then."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_at_any_moment_and_gone_on_with(
    model: Path, data: Path, expected: list[list[str]], tmp_path: Path
):
    folder = tmp_path / "out"
    draw = random.Random(os.environ.get("SWEEP_KILL_SEED", "0"))
    known: dict[str, int] = {}
    for _ in range(6):  # at moments that differ from machine to machine; the test below has one of its own
        killed_after(
            draw.uniform(0.02, 0.5),
            lambda: sweep(model, folder, RECIPES, data, samples=SAMPLES, resume=True),
        )
        if folder.exists():
            store = Store(folder)
            now = finished(folder)
            assert known.items() <= now.items()  # what is done is not done again
            assert all(store.read(folder / "variants" / name) for name in now)
            known = now
    found = sweep(model, folder, RECIPES, data, samples=SAMPLES, resume=True)
    assert found.computed == 5 - len(known)
    assert known.items() <= finished(folder).items()
    assert table(folder) == expected
    assert not list(folder.rglob("*.partial"))
    assert not (folder / ".work").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_killed_after_two_variants_and_gone_on_with(
    model: Path, data: Path, expected: list[list[str]], tmp_path: Path
):
    folder = tmp_path / "out"

    def kill(done: int, total: int, name: str) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            sweep(model, folder, RECIPES, data, samples=SAMPLES, progress=kill)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    known = finished(folder)
    assert len(known) == 2
    found = sweep(model, folder, RECIPES, data, samples=SAMPLES, resume=True)
    assert found.computed == 3
    assert known.items() <= finished(folder).items()
    assert table(folder) == expected


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is no hidden one, and is in no hidden folder."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    return {str(path): (folder / path).read_bytes() for path in shown}


def test_started_anew_the_old_results_stay_until_the_new_ones_are_there(
    model: Path, data: Path, tmp_path: Path
):
    folder = tmp_path / "out"
    sweep(model, folder, ["int8", "pal4"], data, samples=SAMPLES, max_loss=100)
    old = contents(folder)
    seen: list[int] = []

    def interrupt(done: int, total: int, name: str) -> None:
        assert contents(folder) == old
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    anew = {"max_size": 10, "data": data, "samples": SAMPLES, "keep_models": True}
    with pytest.raises(KeyboardInterrupt):
        sweep(model, folder, RECIPES, **anew, force=True, progress=interrupt)
    assert contents(folder) == old
    found = sweep(model, folder, RECIPES, **anew, resume=True, progress=lambda *_: None)
    assert found.computed == 2
    assert sorted(row["name"] for row in found.rows) == sorted(["original", *RECIPES])
    new = contents(folder)
    assert len([name for name in new if name.startswith("variants/")]) == 5
    assert any(name.startswith("models/") for name in new)
    assert not any(name.startswith("chosen") for name in new)  # nothing is as small as that
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".lock"]
    again = sweep(model, folder, RECIPES, **anew, resume=True)
    assert again.computed == 0


def test_what_fails_before_a_variant_is_finished_is_not_gone_on_with(model: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "out"
    sweep(model, folder, ["int8"], data, samples=SAMPLES)
    old = contents(folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(model, folder, ["pal4"], data, samples=SAMPLES, force=True, progress=interrupt)
    assert contents(folder) == old
    assert sweep(model, folder, ["int8"], data, samples=SAMPLES, resume=True).computed == 0


def test_the_same_table_whatever_does_the_work(
    model: Path, data: Path, expected: list[list[str]], tmp_path: Path
):
    sweep(model, tmp_path / "processes", RECIPES, data, samples=SAMPLES, jobs=2)
    assert table(tmp_path / "processes") == expected
    with ThreadPoolExecutor(2) as threads:
        sweep(model, tmp_path / "threads", RECIPES, data, samples=SAMPLES, executor=threads)
    assert table(tmp_path / "threads") == expected


@pytest.mark.slow
def test_a_variant_that_kills_its_worker_is_a_row(model: Path, data: Path, tmp_path: Path):
    variants = [Fatal(), *(Slow(f"slow{at}", str(tmp_path / "journal"), 0) for at in range(3))]
    found = sweep(model, tmp_path / "out", (), data, variants=variants, samples=5, jobs=2)
    assert found["fatal"]["error"].startswith("its process died (BrokenProcessPool)")
    assert [row["status"] for row in found.rows] == ["done", "failed", "done", "done", "done"]


def test_two_sweeps_do_not_share_a_folder(model: Path, data: Path, tmp_path: Path):
    folder = tmp_path / "out"
    with Store(folder).opened(resume=False, force=False):
        done = threading.Event()
        raised: list[MilpassesError] = []

        def second() -> None:
            try:
                sweep(model, folder, RECIPES, data, resume=True)
            except MilpassesError as error:
                raised.append(error)
            done.set()

        threading.Thread(target=second).start()
        assert done.wait(LIMIT)
    assert "another sweep is writing here" in str(raised[0])


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_workers_end_with_a_command_that_is_killed(model: Path, data: Path, tmp_path: Path):
    command = [
        sys.executable, "-c", "from milpasses_tools.cli import main; main()", "sweep", str(model), "--data",
        str(data), "-r", ",".join(RECIPES), "-j", "2", "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until = time.monotonic() + LIMIT
    while not finished(tmp_path / "out"):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    workers = [os.pidfd_open(pid) for pid in children(process.pid)]
    assert len(workers) >= 2
    process.kill()
    process.wait()
    for worker in workers:
        ended, _, _ = select.select([worker], [], [], LIMIT)  # readable once the process has ended
        os.close(worker)
        assert ended


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_loses_nothing(model: Path, data: Path, tmp_path: Path):
    distributed = pytest.importorskip("distributed")
    journal = tmp_path / "journal"
    variants = [Slow(f"slow{at}", str(journal), 0.2) for at in range(4)]
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        client.run(sys.path.append, str(HERE))
        pids = list(client.run(os.getpid).values())

        def kill() -> None:
            while not journal.exists():
                time.sleep(0.02)
            os.kill(pids[0], signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
        found = sweep(
            model, tmp_path / "out", (), data, variants=variants, samples=5,
            executor=client.get_executor(pure=False),
        )  # fmt: skip
        assert [row["status"] for row in found.rows] == ["done"] * 5
        assert set(client.run(os.getpid).values()) != set(pids)
    begun = journal.read_text(encoding="utf-8").split()
    assert set(begun) == {variant.name for variant in variants}
    assert len(begun) <= 6  # one was under way, or waiting, at the killed worker


def test_dask_that_does_not_answer(milpasses_command: Run, model: Path, tmp_path: Path):
    pytest.importorskip("distributed")
    outcome = milpasses_command("sweep", model, "-o", tmp_path / "out", "--dask", "nowhere")
    assert outcome.status == 2
    assert outcome.err.startswith("milpasses: error: --dask nowhere:")


def test_the_estimate_is_what_the_finished_ones_took(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    estimate = Estimate(10, began=100.0)
    assert estimate.text() == ""
    now[0], estimate.done, estimate.left = 130.0, 2, 8
    assert estimate.text() == "about 2:00 left"
    now[0], estimate.done, estimate.left = 5100.0, 5, 5
    assert estimate.text() == "about 1:23:20 left"
    estimate.left = 0
    assert estimate.text() == ""
