"""What is there is never replaced unasked, and with force is never gone."""

import threading
from pathlib import Path
from typing import Any

import pytest

from milpasses.errors import PackageError
from milpasses.program import publish
from milpasses.program.files import whole_file, whole_folder, write_text
from milpasses.program.publish import put


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["system", "plain"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's renames that take a flag, and where there are none."""
    if request.param == "plain":
        monkeypatch.setattr(publish, "_rename", lambda *_: False)
    return str(request.param)


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_of_two_writers_the_second_fails(tmp_path: Path, renames: str, whole: Any) -> None:
    path = tmp_path / "a"
    with pytest.raises(PackageError) as error, whole(path), whole(path):
        pass
    assert str(error.value) == f"{path}: exists already; force=True replaces it"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_stays_without_force(tmp_path: Path, renames: str, kind: str) -> None:
    path = tmp_path / "a"
    path.mkdir() if kind == "folder" else path.write_text("old")
    for whole in (whole_file, whole_folder):
        with pytest.raises(PackageError, match="exists already"), whole(path):
            pass
    assert names(tmp_path) == ["a"]
    assert path.is_dir() if kind == "folder" else path.read_text() == "old"


def test_force_takes_what_another_process_wrote_meanwhile(tmp_path: Path, renames: str) -> None:
    path = tmp_path / "a"
    for whole, content in ((whole_folder, "folder"), (whole_folder, "again")):
        with whole(path, force=True) as folder:
            if not path.exists():
                path.mkdir()
            (folder / content).touch()
        assert names(path) == [content]
    assert names(tmp_path) == ["a"]


def test_a_file_never_replaces_a_folder(tmp_path: Path, renames: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with pytest.raises(PackageError, match=r"a: cannot be written \(Is a directory\)"):
        write_text(tmp_path / "a", "x", force=True)
    assert names(tmp_path / "a") == ["mine"]
    assert names(tmp_path) == ["a"]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path, renames: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "a").symlink_to(tmp_path / "mine")
    with whole_folder(tmp_path / "a", force=True) as folder:
        (folder / "new").touch()
    assert names(tmp_path / "a") == ["new"]
    assert names(tmp_path / "mine") == ["file"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_with_force_there_is_no_moment_without_an_output(tmp_path: Path, whole: Any) -> None:
    path, missing, ended = tmp_path / "a", 0, threading.Event()
    with whole(path):
        pass

    def look() -> None:
        nonlocal missing
        while not ended.is_set():
            missing += not path.exists()

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(300):
        with whole(path, force=True):
            pass
    ended.set()
    thread.join()
    assert missing == 0


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    with whole_folder(path) as folder:
        (folder / "old").touch()
    rename = Path.rename

    def fails(self: Path, target: Any) -> Path:
        if self.suffix == ".partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(publish, "_rename", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(PackageError, match="Input/output error"), whole_folder(path, force=True):
        pass
    assert names(path) == ["old"]
    assert names(tmp_path) == ["a"]


def test_where_a_file_system_knows_no_links_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(publish, "_rename", lambda *_: False)
    monkeypatch.setattr("os.link", refuses)
    (tmp_path / "staged").write_text("new")
    put(tmp_path / "staged", tmp_path / "a", force=False)
    assert (tmp_path / "a").read_text() == "new"
    (tmp_path / "staged").write_text("newer")
    with pytest.raises(FileExistsError):
        put(tmp_path / "staged", tmp_path / "a", force=False)
    assert (tmp_path / "a").read_text() == "new"
