"""What the fuzzer found and no other test has, as models that anybody can read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from coremltools.proto import Model_pb2
from fuzz_models import sound_models
from fuzz_mutants import run_command


def damaged(tmp_path: Path, change: Any, name: str = "int8-iOS18") -> Path:
    """A sound package whose specification ``change`` has changed."""
    path = tmp_path / "damaged.mlpackage"
    shutil.copytree(sound_models()[name], path)
    (file,) = path.rglob("*.mlmodel")
    spec = Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())
    return path


def without_type(spec: Any) -> None:
    spec.description.output[0].type.ClearField("multiArrayType")


def unknown_elements(spec: Any) -> None:
    spec.description.input[0].type.multiArrayType.dataType = 2147483647


@pytest.mark.parametrize("change", [without_type, unknown_elements])
def test_features_of_no_known_type_are_shown_as_what_they_are(change: Any, tmp_path: Path) -> None:
    path, sound = damaged(tmp_path, change), sound_models()["int8-iOS18"]
    for arguments in (["dump", str(path)], ["diff", str(sound), str(path)]):
        status, err = run_command(arguments)
        assert status in (0, 1, 2), err
        assert "Traceback" not in err


@pytest.mark.parametrize("missing", ["fileFormatVersion", "name", "author", "description"])
def test_a_manifest_without_what_core_ml_wants_is_refused_before_anything_is_written(
    missing: str, tmp_path: Path
) -> None:
    path = damaged(tmp_path, lambda spec: None)
    manifest = json.loads((path / "Manifest.json").read_text())
    owners = [manifest] if missing in manifest else list(manifest["itemInfoEntries"].values())
    del owners[0][missing]
    (path / "Manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out.mlpackage"
    status, err = run_command(["compress", str(path), "-r", "pal4", "--requantize", "-o", str(out)])
    assert status == 2
    assert err.endswith("not an .mlpackage (its Manifest.json is missing or damaged)\n")
    assert not out.exists()


def test_an_item_of_the_manifest_that_is_not_there(tmp_path: Path) -> None:
    path = damaged(tmp_path, lambda spec: None)
    manifest = json.loads((path / "Manifest.json").read_text())
    weights = next(item for item in manifest["itemInfoEntries"].values() if item["name"] == "weights")
    weights["path"] = "x"
    (path / "Manifest.json").write_text(json.dumps(manifest))
    for arguments in (
        ["compress", str(path), "-r", "pal4", "-o", str(tmp_path / "o.mlpackage")],
        ["dump", str(path)],
    ):
        status, err = run_command(arguments)
        assert status == 2
        assert err.endswith("its Manifest.json names 'x', which is not in the package\n")


@pytest.mark.parametrize("change", [{"options": 3}, {"error": None}, {"pass": []}, {"options": {"x": [1]}}])
def test_what_trace_kept_is_damaged(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    shutil.copytree(sound_models()["kept"], path)
    assert run_command(["replay", str(path)]) == (0, "")
    content = json.loads((path / "replay.json").read_text())
    (path / "replay.json").write_text(json.dumps(content | change))
    status, err = run_command(["replay", str(path)])
    assert status == 2
    assert err.endswith("kept: trace kept no failure here (replay.json is missing or damaged)\n")
