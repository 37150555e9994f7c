"""``milpasses dump --format model-explorer``: the graph, its overlays, and the real package's own types."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from coremltools.converters.mil import Builder as mb
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.utils import save_spec
from milpasses_tools import dump
from milpasses_tools._view.model_explorer import node_data
from models import conv_linear_program, convert
from programs import PROGRAMS, build

import milpasses


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    convert(conv_linear_program()).save(str(folder / "plain.mlpackage"))
    milpasses.compress(folder / "plain.mlpackage", "int8", output=folder / "small.mlpackage")
    return folder / "small.mlpackage"


def collection(model: Any) -> dict[str, Any]:
    return json.loads(dump(model, "model-explorer"))


def attributes(node: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in node["attrs"]}


def test_nodes_are_the_ops_with_inputs_and_outputs(small: Path):
    (graph,) = collection(small)["graphs"]
    labels = [node["label"] for node in graph["nodes"]]
    assert labels.count("input") == labels.count("output") == 1
    assert labels.count("constexpr_blockwise_shift_scale") == 2
    assert labels.count("dense weight") == 2
    conv = next(node for node in graph["nodes"] if node["label"] == "conv")
    sources = [edge["sourceNodeId"] for edge in conv["incomingEdges"]]
    assert len(sources) == 3
    assert attributes(conv)["pad_type"] == '"valid"'


def test_a_weight_says_bits_bytes_and_error(small: Path):
    nodes = collection(small)["graphs"][0]["nodes"]
    node = next(node for node in nodes if node["label"] == "constexpr_blockwise_shift_scale")
    found = attributes(node)
    assert found["form"] == "int8 per_channel"
    assert int(found["stored bytes"]) == 64 * 32 * 9 + 2 * 64
    assert 8 < float(found["bits a weight"]) < 8.1
    assert float(found["SQNR in dB"]) > 35
    assert node["style"]["backgroundColor"] == "#f5d76e"


@pytest.mark.parametrize("name", PROGRAMS)
def test_ids_are_unique_and_edges_lead_somewhere(name: str):
    for graph in collection(PROGRAMS[name]())["graphs"]:
        ids = [node["id"] for node in graph["nodes"]]
        assert len(ids) == len(set(ids))
        edges = [edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]]
        assert edges
        assert set(edges) <= set(ids)


def test_nested_blocks_are_layers():
    nodes = collection(PROGRAMS["branches"]())["graphs"][0]["nodes"]
    assert {node["namespace"] for node in nodes} >= {"", "chosen block 0", "chosen block 1"}


def test_the_command_writes_node_data_beside_the_graph(milpasses_command: Run, small: Path, tmp_path: Path):
    outcome = milpasses_command("dump", small, "--format", "model-explorer", "-o", tmp_path / "g.json")
    written = ("g.json", "g.bits.json", "g.bytes.json", "g.sqnr.json")
    assert outcome.status == 0
    assert outcome.out.splitlines() == [f"written: {tmp_path / name}" for name in written]
    graph = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    ids = {node["id"] for node in graph["graphs"][0]["nodes"]}
    for measure, count in (("bits", 4), ("bytes", 4), ("sqnr", 2)):
        results = json.loads((tmp_path / f"g.{measure}.json").read_text(encoding="utf-8"))["main"]["results"]
        assert len(results) == count
        assert set(results) <= ids


def test_original_is_for_html(milpasses_command: Run, small: Path):
    outcome = milpasses_command("dump", small, "--format", "model-explorer", "--original", small)
    assert outcome.status == 2
    assert "--original MODEL is for the format html, not model-explorer" in outcome.err


def test_original_must_have_the_weights(small: Path):
    with pytest.raises(milpasses.MilpassesError, match="no weight has the name and shape"):
        dump(small, "html", original=build(lambda x: mb.relu(x=x), (2, 2)))


def test_the_real_package_takes_it(small: Path):
    builder = pytest.importorskip("model_explorer.graph_builder")
    data_builder = pytest.importorskip("model_explorer.node_data_builder")
    dacite = pytest.importorskip("dacite")
    strict = dacite.Config(strict=True)
    content = collection(small)
    taken = dacite.from_dict(builder.GraphCollection, content, config=strict)
    assert len(taken.graphs[0].nodes) == len(content["graphs"][0]["nodes"])
    for graphs in node_data(content).values():
        for graph in graphs.values():
            assert dacite.from_dict(data_builder.GraphNodeData, graph, config=strict).results


class TestAdapter:
    @pytest.fixture
    def run(self, capsys: pytest.CaptureFixture[str]) -> Any:
        """Has the real server's own manager load the extension, and open a path as its page does."""
        manager_module = pytest.importorskip("model_explorer.extension_manager")
        manager = manager_module.ExtensionManager(["milpasses_tools.model_explorer"])
        manager.load_extensions()
        assert 'Failed to load extension module "milpasses_tools' not in capsys.readouterr().out
        (ours,) = [one for one in manager.get_extensions_metadata() if one["id"] == "milpasses"]
        assert ours["fileExts"] == ["mlpackage", "mlmodel"]

        def run(path: Path) -> dict[str, Any]:
            command = {"extensionId": "milpasses", "cmdId": "convert", "modelPath": str(path), "settings": {}}
            return json.loads(json.dumps(manager.run_cmd({**command, "deleteAfterConversion": False})))

        return run

    def test_opens_a_package_by_its_path(self, run: Any, small: Path):
        assert run(small) == {"graphCollections": [{**collection(small), "graphSorting": "node_count_desc"}]}

    def test_a_file_in_a_package_stands_for_it(self, run: Any, small: Path, tmp_path: Path):
        inside = small / "Data" / "com.apple.CoreML" / "model.mlmodel"
        assert run(inside) == run(small)
        shutil.copyfile(inside, tmp_path / "model.mlmodel")
        with pytest.raises(milpasses.MilpassesError, match="give the path of the package"):
            run(tmp_path / "model.mlmodel")

    def test_opens_a_legacy_network(self, run: Any, tmp_path: Path):
        builder = NeuralNetworkBuilder([("x", datatypes.Array(1, 4, 4))], [("y", None)])
        builder.add_activation("relu", "RELU", "x", "y")
        save_spec(builder.spec, str(tmp_path / "net.mlmodel"))
        ((graph,),) = [one["graphs"] for one in run(tmp_path / "net.mlmodel")["graphCollections"]]
        assert "relu" in [node["label"] for node in graph["nodes"]]


def test_nothing_else_needs_model_explorer():
    code = "import sys; sys.modules['model_explorer'] = None; import milpasses_tools.dump"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
