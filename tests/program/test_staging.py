"""What a killed process leaves: the target as it was or whole, and nothing else once the next one starts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from milpasses.program import staging
from milpasses.program.files import whole_file, whole_folder, write_text

OLD = time.time() - 60


def aged(path: Path) -> Path:
    os.utime(path, (OLD, OLD))
    return path


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_seen", set())


def test_what_nobody_holds_is_deleted_by_the_next_that_writes_there(tmp_path: Path) -> None:
    folder = tmp_path / ".model-0123abcd.partial"
    (folder / "Data").mkdir(parents=True)
    (folder / "Data" / "weight.bin").write_bytes(bytes(100))
    file = tmp_path / ".statistics-89abcdef.partial"
    file.write_bytes(bytes(10))
    aged(folder)
    aged(file)
    write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_is_held_young_or_of_another_name_stays(tmp_path: Path) -> None:
    names = [".model-0123abcd.partial", ".other.partial", "model-0123abcd.partial", ".a-0123abcd.partial.old"]
    for name in names[1:]:
        (tmp_path / name).mkdir()
        aged(tmp_path / name)
    (tmp_path / names[0]).mkdir()  # a moment old: its process may be about to lock it
    os.symlink(tmp_path / names[1], tmp_path / ".link-0123abcd.partial")
    with whole_folder(tmp_path / "b.mlpackage") as one, whole_file(tmp_path / "c.npz") as file:
        aged(one)
        aged(Path(file.name))
        staging.remove_stale(tmp_path)
        assert one.is_dir()
        assert Path(file.name).is_file()
    left = set(os.listdir(tmp_path))
    assert left == {*names, ".link-0123abcd.partial", "b.mlpackage", "c.npz"}
    aged(tmp_path / names[0])
    staging.remove_stale(tmp_path)
    assert names[0] not in os.listdir(tmp_path)


def test_killed_at_any_moment_the_output_is_absent_or_whole(tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    script = Path(__file__).with_name("killed_process.py")
    environment = {
        **os.environ,
        "MILPASSES_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }  # a fork has no threads
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) >= 20
