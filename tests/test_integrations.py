"""The scripts of ``integrations/`` and what they rely on, without the packages that they try."""

import ast
import runpy
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import pytest
from models import constexprs, conv_linear_program, convert

import milpasses as mp

FOLDER = Path(__file__).resolve().parents[1] / "integrations"


def test_each_package_has_a_script() -> None:
    steps = runpy.run_path(str(FOLDER / "run.py"))["STEPS"]
    scripts = {path.stem.removeprefix("with_") for path in FOLDER.glob("with_*.py")}
    assert scripts == set(steps) == {"ultralytics", "executorch", "transformers", "tensorflow"}
    for name in scripts:
        tree = ast.parse((FOLDER / f"with_{name}.py").read_text(encoding="utf-8"))
        imported = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert name in {module.partition(".")[0] for module in imported}


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(SystemExit, match="no integration keras; there are ultralytics"):
        runpy.run_path(str(FOLDER / "run.py"))["main"](["keras"])


def test_the_call_of_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cto, "palettize_weights", mp.coreml.palettize_weights)
    model = convert(conv_linear_program())
    config = cto.OptimizationConfig(
        global_config=cto.OpPalettizerConfig(mode="kmeans", nbits=8, weight_threshold=512)
    )
    small = cto.palettize_weights(model, config=config)
    assert [op.op_type for op in constexprs(small).values()] == ["constexpr_lut_to_dense"] * 2
    small.short_description, small.author, small.license, small.version = "d", "a", "l", "1"
    small.user_defined_metadata.update({"stride": "32"})
    assert (Path(small.weights_dir) / "weight.bin").exists()  # what pipeline_coreml hands on
    small.save(str(tmp_path / "small.mlpackage"))
    spec = ct.models.utils.load_spec(str(tmp_path / "small.mlpackage"))
    assert dict(spec.description.metadata.userDefined)["stride"] == "32"
