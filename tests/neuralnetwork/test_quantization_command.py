"""``milpasses quantize-nn``: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest
from milpasses_tools import quantize_nn
from milpasses_tools.cli import app
from quantization_models import network

from milpasses.neuralnetwork.quantize.quantized_model import read_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.mlmodel"
    path.write_bytes(network("convolution", "innerProduct", "bias").SerializeToString())
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        app(["quantize-nn", *map(str, arguments)], prog_name="milpasses")
    found = capsys.readouterr()
    return int(end.value.code or 0), found.out, found.err


def test_writes_and_prints(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mlmodel"
    status, text, errors = call(capsys, model, "--bits", 4, "-m", "kmeans_lut", "-o", out)
    assert (status, errors) == (0, "")
    assert "convolution.weights" in text
    assert "times smaller" in text
    assert read_model(out).spec.specificationVersion == 4
    status, text, _ = call(capsys, model, "-b", 4, "--json", "-o", out, "--force", "--skip", "bias")
    content = json.loads(text)
    assert content["recipe"] == "linear 4"
    assert content["totals"]["weights"] == 5
    assert content["output"]["bytes"] == out.stat().st_size
    kept = {row["name"] for row in content["weights"] if row["status"] == "kept"}
    assert kept == {"convolution.bias", "innerProduct.bias", "bias.bias"}


def test_errors_are_one_line_and_leave_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mlmodel"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((model, "--bits", 9), "give 1 to 8"),
        ((model, "--mode", "linear"), "give 1 to 8"),
        ((model, "--bits", 4, "--mode", "best"), "no quantization mode 'best'"),
        ((model, "--bits", 4, "--mode", "custom_lut"), "takes a function"),
        ((model, "--bits", 4, "--skip", "sofa"), "sofa"),
        ((tmp_path / "none.mlmodel", "--bits", 4), "no such file"),
    ]
    for arguments, message in cases:
        status, text, errors = call(capsys, *arguments, "-o", out)
        assert (status, text) == (2, "")
        assert message in errors
        assert errors.count("\n") == 1
        assert not out.exists()
    quantize_nn(model, out, 4)
    status, _, errors = call(capsys, out, "--bits", 2, "-o", tmp_path / "again.mlmodel")
    assert status == 2
    assert "--requantize" in errors
    assert call(capsys, out, "--bits", 2, "-o", tmp_path / "again.mlmodel", "--requantize")[0] == 0
