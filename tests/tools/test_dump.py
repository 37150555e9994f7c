"""``dump`` against golden texts (``MILPASSES_GOLDEN=1`` writes them anew), and its other formats."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from milpasses_tools import dump
from models import convert
from programs import PROGRAMS, branches, build, loop
from tools_models import rewrite_spec

import milpasses
from milpasses.errors import MilpassesError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def packages(conv_linear: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The conv-linear model as a package: as it is, and compressed."""
    folder = tmp_path_factory.mktemp("dump")
    plain, small = folder / "plain.mlpackage", folder / "small.mlpackage"
    conv_linear("iOS18").save(str(plain))
    milpasses.compress(plain, "pal4-g16", output=small)
    return {"plain": plain, "small": small}


def spec_bytes(package: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in package.rglob("*") if path.is_file()}


class TestText:
    @pytest.mark.parametrize("name", PROGRAMS)
    def test_golden(self, name: str):
        text = dump(PROGRAMS[name]())
        path = GOLDEN / f"{name}.mil"
        if os.environ.get("MILPASSES_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    def test_no_golden_is_left_over(self):
        assert {path.stem for path in GOLDEN.glob("*.mil")} == set(PROGRAMS)

    def test_the_same_from_a_program_a_model_and_a_package(self, conv_linear: Any, packages: dict[str, Path]):
        model = conv_linear("iOS18")
        assert dump(packages["plain"]) == dump(model) == dump(model._mil_program) == dump(packages["plain"])

    @pytest.mark.parametrize("program", [branches, loop])
    def test_nested_blocks_are_the_same_from_a_package(self, program: Any, tmp_path: Path):
        model = convert(program())
        model.save(str(tmp_path / "nested.mlpackage"))
        assert dump(tmp_path / "nested.mlpackage") == dump(model._mil_program)

    @pytest.mark.parametrize(("target", "recipe"), [("iOS16", "int8"), ("iOS18", "sparse50+pal4")])
    def test_compressed_is_the_same_but_for_the_error(
        self, conv_linear: Any, target: str, recipe: str, tmp_path: Path
    ):
        model = milpasses.compress(conv_linear(target), recipe, output=tmp_path / "small.mlpackage")
        text = dump(tmp_path / "small.mlpackage")
        assert len(re.findall(r"bytes, \d+\.\d dB", text)) == model.report.count("compressed")
        assert re.sub(r", [\d.]+ dB", "", text) == dump(model._mil_program)

    def test_it_changes_nothing(self, packages: dict[str, Path]):
        before = spec_bytes(packages["small"])
        for kind in ("text", "json", "dot", "html"):
            dump(packages["small"], kind)
        assert spec_bytes(packages["small"]) == before

    def test_the_passes_that_made_an_op(self, conv_linear: Any):
        line = next(
            line
            for line in dump(conv_linear("iOS18")._mil_program, passes=True).splitlines()
            if " conv(" in line
        )
        assert line.endswith("# made by add_fp16_cast")


class TestUnknown:
    def test_ops_of_a_newer_coremltools(self, packages: dict[str, Path], tmp_path: Path):
        def change(spec: Any) -> None:
            function = spec.mlProgram.functions["main"]
            (block,) = function.block_specializations.values()
            for op in block.operations:
                if op.type == "relu":
                    op.type = "relu_of_the_future"
                    op.outputs[0].type.tensorType.dataType = 99
                if op.type == "constexpr_lut_to_dense":
                    op.type = "constexpr_of_the_future"

        rewrite_spec(packages["small"], tmp_path / "future.mlpackage", change)
        text = dump(tmp_path / "future.mlpackage")
        assert ": type99[1,64,14,14] = relu_of_the_future(x=%" in text
        assert text.count("= constexpr_of_the_future(indices=<uint4[") == 2
        assert text.count("# unknown form, 4.") == 2
        assert "relu_of_the_future" in dump(tmp_path / "future.mlpackage", "html")

    def test_immediate_values_of_an_unknown_type(self, packages: dict[str, Path], tmp_path: Path):
        def change(spec: Any) -> None:
            (block,) = spec.mlProgram.functions["main"].block_specializations.values()
            for op in block.operations:
                if op.type == "const" and op.outputs[0].name.endswith("strides_0"):
                    op.attributes["val"].type.tensorType.dataType = 41
                    op.attributes["val"].immediateValue.tensor.bytes.values = b"ab"

        rewrite_spec(packages["plain"], tmp_path / "odd.mlpackage", change)
        assert "strides=<float8e5m2[2]>" in dump(tmp_path / "odd.mlpackage")


class TestNarrow:
    def test_show(self, packages: dict[str, Path]):
        weights = dump(packages["small"], show="weights").splitlines()
        assert [line.split(" = ")[1].split("(")[0] for line in weights[1:-3]] == [
            "constexpr_lut_to_dense",
            "const",
            "constexpr_lut_to_dense",
            "const",
        ]
        ops = dump(packages["small"], show="ops")
        assert "const" not in ops
        assert "# 6 of 10 ops" in ops
        assert dump(packages["small"], show="inputs").splitlines()[:2] == [
            "func main<iOS18>(%x: float32[1,32,16,16]) {",
            "  return %fc",
        ]

    def test_only(self, packages: dict[str, Path]):
        text = dump(packages["plain"], only_ops=["conv", "*reduce*"])
        assert [line.split(" = ")[1].split("(")[0] for line in text.splitlines()[1:-3]] == [
            "conv",
            "reduce_mean",
        ]

    def test_only_reaches_into_blocks(self):
        lines = dump(branches(), only_ops=["linear"]).splitlines()
        assert [line.strip().split("(")[0] for line in lines if " = " in line] == [
            "%chosen: float32[2,8] = cond",
            "%dense: float32[2,8] = linear",
        ]

    def test_around(self, packages: dict[str, Path]):
        def near(radius: int) -> list[str]:
            text = dump(packages["plain"], around_op="fc_cast_fp16", radius=radius)
            return re.findall(r" = (\w+)\(", text)

        assert near(0) == ["linear"]
        assert near(1) == ["reduce_mean", "const", "const", "linear", "cast"]
        assert near(2) == ["relu", *near(1)]

    def test_around_crosses_blocks(self):
        text = dump(branches(), around_op="dense", radius=1)
        assert "= cond(" in text
        assert "= relu(" not in text

    def test_what_is_not_there(self, packages: dict[str, Path]):
        with pytest.raises(MilpassesError, match="matches 'convv'; there is conv"):
            dump(packages["plain"], only_ops=["convv"])
        with pytest.raises(MilpassesError, match="there is no op 'fc_cast'; there is fc_cast_fp16"):
            dump(packages["plain"], around_op="fc_cast")


class TestFormats:
    def test_json(self, packages: dict[str, Path]):
        content = json.loads(dump(packages["small"], "json"))
        (function,) = content["functions"]
        assert [op["type"] for op in function["ops"]] == re.findall(r" = (\w+)\(", dump(packages["small"]))
        conv = next(op for op in function["ops"] if op["type"] == "conv")
        assert conv["inputs"]["strides"] == ["[1, 1]"]
        assert conv["inputs"]["x"] == ["%x_to_fp16"]
        weight = next(op["weight"] for op in function["ops"] if "weight" in op)
        assert (weight["form"], weight["nbytes"]) == ("lut4 per_grouped_channel(16)", 9344)
        assert weight["sqnr_db"] > 15
        assert content["features"]["main: output fc"] == "float32 1x96"

    def test_dot_keeps_blocks_and_edges(self):
        text = dump(branches(), "dot")
        assert text.count("subgraph cluster_") == 3  # the function and two blocks
        assert text.count("{") == text.count("}")
        nodes = dict(re.findall(r'^ +(n\d+) \[label="(\w+)', text, re.M))
        edges = {(nodes.get(a), nodes.get(b)) for a, b in re.findall(r"(n\d+) -> (n\d+)", text)}
        assert {("const", "linear"), ("linear", "cond"), ("relu", "cond"), ("greater", "cond")} <= edges

    def test_html_is_one_page_with_valid_data(self, packages: dict[str, Path]):
        page = dump(packages["small"], "html")
        assert not re.findall(r"(?:src|href)=", page)
        assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
        data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.S)[1])
        assert [weight["bytes"] for weight in data["weights"]] == [9344, 128, 3264, 192]
        assert sum(data["weights"][0]["histogram"]["counts"]) == 64 * 32 * 9

    def test_html_cannot_be_broken_by_a_name(self):
        page = dump(build(lambda x: mb.relu(x=x, name="</script><b>"), (2, 2)), "html")
        assert page.count("</script>") == 2


class TestCommand:
    def test_prints_the_text(self, milpasses_command: Run, packages: dict[str, Path]):
        outcome = milpasses_command("dump", packages["small"])
        assert (outcome.status, outcome.out, outcome.err) == (0, dump(packages["small"]), "")

    def test_json(self, milpasses_command: Run, packages: dict[str, Path]):
        assert milpasses_command("dump", packages["small"], "--json").out == dump(packages["small"], "json")

    def test_writes_a_file(self, milpasses_command: Run, packages: dict[str, Path], tmp_path: Path):
        page = tmp_path / "page.html"
        outcome = milpasses_command("dump", packages["small"], "--format", "html", "-o", page)
        assert (outcome.status, outcome.out) == (0, f"written: {page}\n")
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")

    @pytest.mark.parametrize(
        ("content", "expected"),
        [(None, "no such file"), (b"", "this is a file"), ("folder", "not an .mlpackage")],
    )
    def test_what_is_no_model(self, milpasses_command: Run, tmp_path: Path, content: Any, expected: str):
        path = tmp_path / "model.mlpackage"
        if content == "folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        outcome = milpasses_command("dump", path)
        assert (outcome.status, outcome.out) == (2, "")
        assert expected in outcome.err
        assert outcome.err.count("\n") == 1

    def test_a_damaged_weight_file(self, milpasses_command: Run, packages: dict[str, Path], tmp_path: Path):
        copy = rewrite_spec(packages["small"], tmp_path / "damaged.mlpackage", lambda spec: None)
        (weights,) = copy.rglob("weight.bin")
        weights.write_bytes(weights.read_bytes()[:2000])
        outcome = milpasses_command("dump", copy)
        assert outcome.status == 2
        assert "truncated" in outcome.err


def test_weights_below_a_byte_in_memory_decode_for_the_page():
    text = dump(PROGRAMS["int4_ios18"](), "html")
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S)[1])
    assert all(weight["histogram"] is not None for weight in data["weights"])
