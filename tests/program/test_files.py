"""Files and folders are written whole or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from milpasses.errors import PackageError
from milpasses.program.files import (
    check_files,
    check_folder,
    check_output,
    copy_whole,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path, force=True) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    for content in ("old", "new"):
        with whole_folder(path, force=True) as folder:
            (folder / content).write_text(content)
    assert names(path) == ["new"]
    assert names(tmp_path) == ["a.mlpackage"]


def test_whoever_may_read_a_new_file_decides_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "a", "x")
        with whole_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o600, 0o700]


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
    (tmp_path / "circle.mlmodel").symlink_to(tmp_path / "circle.mlmodel")
    for path, message in (
        (tmp_path / "a.mlpackage", "must end in .mlmodel"),
        (there, "exists already; force=True"),
        (tmp_path / "none" / "a.mlmodel", "does not exist"),
        (tmp_path / "a\0b.mlmodel", r"cannot be written \(embedded null byte\)"),
        (tmp_path / ("a" * 300 + ".mlmodel"), r"cannot be written \(File name too long\)"),
        (tmp_path / "circle.mlmodel", "cannot be written .*[Ss]ymlink loop|exists already"),
    ):
        with pytest.raises(PackageError, match=message):
            check_output(path, ".mlmodel", force=False)


def test_a_device_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for force in (False, True):
        with pytest.raises(PackageError, match="is a device or a pipe"):
            check_output(tmp_path / "pipe", force=force)


def test_an_output_is_never_an_input(tmp_path: Path) -> None:
    model = tmp_path / "a.mlpackage"
    (model / "Data").mkdir(parents=True)
    (model / "Data" / "m").touch()
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "same").hardlink_to(model / "Data" / "m")
    inputs = ["pal4", None, 3, model, "module:function"]
    check_output(tmp_path / "b", inputs=inputs)
    for output, message in (
        (model, "is an input"),
        (tmp_path / "x" / ".." / "a.mlpackage", "is an input"),
        (tmp_path / "link", "is an input"),
        (model / "b", "is inside .*a.mlpackage, an input"),
        (tmp_path, "holds .*a.mlpackage, an input"),
    ):
        with pytest.raises(PackageError, match=message):
            check_output(output, force=True, inputs=inputs)
    with pytest.raises(PackageError, match="is an input"):
        check_output(tmp_path / "same", force=True, inputs=[model / "Data" / "m"])


def test_two_outputs_of_one_command_differ(tmp_path: Path) -> None:
    one, package = tmp_path / "one.json", tmp_path / "a.mlpackage"
    package.mkdir()
    check_files([one, None, tmp_path / "two.json"])
    with pytest.raises(PackageError, match="is an output twice"):
        check_files([one, tmp_path / "." / "one.json"])
    with pytest.raises(PackageError, match="is an output twice"):
        check_files([package, package / "report.json"], force=True)
    with pytest.raises(PackageError, match="is a folder; a file is needed"):
        check_files([tmp_path], force=True)


def test_a_folder_for_results_is_new_or_empty_unless_forced(tmp_path: Path) -> None:
    assert not check_folder(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    assert check_folder(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(PackageError, match="exists already"):
        check_folder(tmp_path / "full")
    assert check_folder(tmp_path / "full", force=True)
    with pytest.raises(PackageError, match="is a file; a folder is needed"):
        check_folder(tmp_path / "full" / "file", force=True)
