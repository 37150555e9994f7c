"""Packages that name paths outside themselves: refused, and nothing outside is read or written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from models import convert, random, weights_program

import milpasses
from milpasses.errors import PackageError
from milpasses.program.inside import check_tree, path_inside
from milpasses.program.opening import open_program
from milpasses.program.package import copy_weights, open_package, write_package
from milpasses.program.sources import read_source


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with one weight in its weight file."""
    path = tmp_path_factory.mktemp("saved") / "model.mlpackage"
    convert(weights_program(random((64, 64)))).save(str(path))
    return path


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged, beside a folder that it must not touch."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("mine")
    shutil.copytree(saved, tmp_path / "model.mlpackage")
    return tmp_path / "model.mlpackage"


def edit_manifest(package: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    change(content)
    (package / "Manifest.json").write_text(json.dumps(content), encoding="utf-8")


def blobs(block: Any) -> Iterator[Any]:
    for op in block.operations:
        for value in op.attributes.values():
            if value.WhichOneof("value") == "blobFileValue":
                yield value.blobFileValue


def edit_blob(package: Path, name: str) -> None:
    source = read_source(package)
    (function,) = source.spec.mlProgram.functions.values()
    for block in function.block_specializations.values():
        for blob in blobs(block):
            blob.fileName = name
    assert source.spec_path is not None
    source.spec_path.write_bytes(source.spec.SerializeToString())


def untouched(folder: Path) -> bool:
    """Nothing but the fixture's own is in ``folder``, and the victim is as it was."""
    names = sorted(path.name for path in folder.iterdir())
    return names == ["model.mlpackage", "victim"] and (folder / "victim" / "file").read_text() == "mine"


PATHS = [
    "../../victim/file", "com.apple.CoreML/../../../victim/file", "/etc/passwd", "a\\b", "C:/x", "a\0b", ".",
    "", 3, None, ["a"], "x/" * 5000 + "x",
]  # fmt: skip


def compress(package: Path) -> None:
    milpasses.compress(package, "int8", output=package.parent / "o.mlpackage")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("which", ["root", "other"])
def test_a_path_of_the_manifest_leads_inside(package: Path, path: Any, which: str) -> None:
    def change(content: dict[str, Any]) -> None:
        root = content["rootModelIdentifier"]
        for name, item in content["itemInfoEntries"].items():
            if (name == root) == (which == "root"):
                item["path"] = path

    edit_manifest(package, change)
    for action in (open_package, compress):
        with pytest.raises(PackageError, match=r"Manifest.json says that .* does not lead to a file inside"):
            action(package)
    assert untouched(package.parent)


@pytest.mark.parametrize(
    "name", ["@model_path/../../../victim/w.bin", "../w.bin", "/tmp/w.bin", "@model_path//etc/x", ""]
)
def test_a_weight_file_is_inside(package: Path, name: str) -> None:
    edit_blob(package, name)
    with pytest.raises(PackageError, match=r"the weight file .* does not lead to a file inside the package"):
        compress(package)
    with pytest.raises(PackageError, match=r"the weight file .* does not lead to a file inside the package"):
        [site.weight.value for site in open_program(package).sites()]
    assert untouched(package.parent)


@pytest.mark.parametrize(
    "where",
    ["Manifest.json", "Data/notes", "Data/com.apple.CoreML/weights/weight.bin", "Data",
     "Data/com.apple.CoreML/model.mlmodel"],
)  # fmt: skip
def test_links_are_refused(package: Path, where: str) -> None:
    target = package / where
    if target.exists():
        aside = package.parent / "victim" / target.name
        target.rename(aside)
        target.symlink_to(aside)
    else:
        target.symlink_to(package.parent / "victim")
    for action in (open_package, compress):
        with pytest.raises(
            PackageError, match=r"is a link, and links in a package are not followed; .*cp -RL"
        ):
            action(package)
    assert sorted(path.name for path in package.parent.iterdir()) == ["model.mlpackage", "victim"]


def test_links_that_lead_in_a_circle_and_pipes_are_refused(package: Path) -> None:
    (package / "Data" / "circle").symlink_to(package)
    with pytest.raises(PackageError, match="circle is a link"):
        open_package(package)
    (package / "Data" / "circle").unlink()
    os.mkfifo(package / "Data" / "pipe")
    with pytest.raises(PackageError, match="pipe is a device or a pipe; a package holds files"):
        open_package(package)


def test_a_link_to_a_package_is_a_persons_own(package: Path) -> None:
    (package.parent / "linked.mlpackage").symlink_to(package)
    assert open_package(package.parent / "linked.mlpackage").spec.WhichOneof("Type") == "mlProgram"


def test_a_link_that_appears_later_is_not_copied(package: Path) -> None:
    opened = open_package(package)
    (package / "Data" / "late").symlink_to(package.parent / "victim")
    with pytest.raises(PackageError, match="late is a link"):
        write_package(opened, package.parent / "o.mlpackage", lambda folder: copy_weights(opened, folder))
    assert untouched(package.parent)


def test_names_and_paths(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "a/./b", "model", "it") == tmp_path / "a" / "b"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    check_tree(tmp_path)
    (tmp_path / "folder" / "link").symlink_to("file")
    with pytest.raises(PackageError, match="link is a link"):
        path_inside(tmp_path, "folder/link", "model", "it")
