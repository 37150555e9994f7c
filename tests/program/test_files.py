"""Files and folders are written whole or not at all."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from milpasses.errors import PackageError
from milpasses.program.files import check_output, copy_whole, whole_file, whole_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    for content in ("old", "new"):
        with whole_folder(path) as folder:
            (folder / content).write_text(content)
    assert names(path) == ["new"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert names(tmp_path) == ["a.mlpackage"]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no")])
def test_an_error_leaves_what_was_there(tmp_path: Path, whole: Any, error: BaseException) -> None:
    with pytest.raises(type(error)), whole(tmp_path / "a"):
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_the_disk_refuses_is_one_clear_line(tmp_path: Path, whole: Any) -> None:
    with pytest.raises(PackageError) as error, whole(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (
        str(error.value) == f"{tmp_path / 'a'}: cannot be written (No space left on device); nothing was left"
    )
    assert names(tmp_path) == []
    nowhere = whole(tmp_path / "none" / "a")
    with pytest.raises(PackageError, match=r"cannot be written \(No such file or directory\)"), nowhere:
        pass


def test_a_file_that_cannot_be_read_is_not_called_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), whole_file(tmp_path / "a"):
        (Path(tmp_path.anchor) / "elsewhere").read_bytes()


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    with whole_folder(path) as folder:
        (folder / "old").touch()
    rename = Path.rename

    def fails(self: Path, target: Any) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(PackageError, match="Input/output error"), whole_folder(path):
        pass
    assert names(path) == ["old"]
    assert names(tmp_path) == ["a"]


def test_texts_json_and_copies(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "é\n")
    write_json(tmp_path / "json", {"a": [1, "é"]})
    assert (tmp_path / "text").read_bytes() == "é\n".encode()
    assert json.loads((tmp_path / "json").read_text(encoding="utf-8")) == {"a": [1, "é"]}
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_text("x")
    copy_whole(tmp_path / "folder", tmp_path / "copy")
    copy_whole(tmp_path / "text", tmp_path / "second")
    assert (tmp_path / "copy" / "inner" / "file").read_text() == "x"
    assert (tmp_path / "second").read_bytes() == (tmp_path / "text").read_bytes()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    there = tmp_path / "a.mlmodel"
    there.touch()
    check_output(there, ".mlmodel", force=True)
    check_output(tmp_path / "b.mlmodel", ".mlmodel", force=False)
    for path, message in (
        (tmp_path / "a.mlpackage", "must end in .mlmodel"),
        (there, "exists already; force=True"),
        (tmp_path / "none" / "a.mlmodel", "does not exist"),
    ):
        with pytest.raises(PackageError, match=message):
            check_output(path, ".mlmodel", force=False)
