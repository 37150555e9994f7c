"""Dependencies point one way: tools -> milpasses -> kernels, and from each layer of milpasses down.

The lists called KNOWN hold what does not keep a rule yet. They are compared with equality: what is mended
leaves its list, and nothing is added.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from source_graph import (
    ROOT,
    SOURCES,
    Import,
    bound_names,
    cycles,
    imported_names,
    imports,
    modules,
    parsed,
    repeated_runs,
    without_exports,
)

FORBIDDEN = {
    "milpasses_kernels": {"milpasses", "milpasses_tools", "coremltools", "torch"},
    "milpasses": {"milpasses_tools"},
    "milpasses_tools": set[str](),
}

# Each imports only what stands before it, and itself. The entry points are one layer.
ENTRY_POINTS = ("compress", "pipeline", "coreml", "passes")
LAYERS = (
    ("errors",),
    ("_coremltools",),
    ("report",),
    ("recipe",),
    ("encoding",),
    ("program",),
    ("interpreter",),
    ("data",),
    ("calibration",),
    ("rewrite",),
    ("activations",),
    ("tuning",),
    ("budget",),
    ("neuralnetwork",),
    ENTRY_POINTS,
    ("",),  # milpasses/__init__.py
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# Inside a layer: folders that stand before others. Those of one tuple do not import each other.
ROOMS = {"milpasses.neuralnetwork": (("spec",), ("reader", "quantize"))}
KNOWN_BETWEEN_ROOMS: set[str] = set()
KNOWN_UPWARD: set[str] = set()
KNOWN_CIRCLES: set[str] = set()

# What DESIGN.md lists, and what makes it a typed package.
TOP = {
    *("compress.py", "pipeline.py", "coreml.py", "passes", "rewrite.py", "errors.py", "report.py"),
    *("recipe", "encoding", "program", "interpreter", "data", "calibration", "activations", "tuning"),
    *("budget", "neuralnetwork", "_coremltools.py"),
    *("__init__.py", "py.typed"),
}
LATER = set[str]()  # what the design foresees and is not built yet

# The entry points are called as their functions, so ``milpasses.compress`` is the function and hides the
# module. In exchange nobody imports from these two modules but ``milpasses/__init__.py``.
HIDDEN_ENTRY_POINTS = {"milpasses.compress", "milpasses.pipeline"}
# coremltools names a pass, and the file that it is alone in, in snake_case: these are classes.
PASSES = {
    "milpasses.passes.compress_weights",
    "milpasses.passes.decompress_weights",
    "milpasses.passes.palettize_weights",
    "milpasses.passes.prune_weights",
    "milpasses.passes.quantize_activations",
    "milpasses.passes.quantize_weights",
}
KNOWN_IMPORTS_OF_HIDDEN: set[str] = set()

MOST_LINES = 400
KNOWN_REPEATED: set[str] = set()


def layer_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def differences(found: Mapping[str, Iterable[str]], known: Iterable[str]) -> str:
    """Empty where ``found`` (what breaks a rule, and where) is what is ``known``."""
    listed = set(known)
    added = [f"new: {key} ({', '.join(found[key])})" for key in sorted(found) if key not in listed]
    mended = [f"mended, take it out of the list: {key}" for key in sorted(listed - set(found))]
    return "\n".join([*added, *mended])


def by_edge(edges: Iterable[Import]) -> dict[str, list[str]]:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for edge in edges:
        if edge.place not in places[edge.edge]:
            places[edge.edge].append(edge.place)
    return places


def own_imports() -> list[Import]:
    return imports("milpasses", modules("milpasses"))


def upward(edges: Iterable[Import]) -> list[Import]:
    """Imports of a layer that stands higher."""
    return [edge for edge in edges if RANK[layer_of(edge.target)] > RANK[layer_of(edge.importer)]]


def between_rooms(edges: Iterable[Import], package: str, rooms: Sequence[Sequence[str]]) -> list[Import]:
    """Imports between the folders of ``package`` that do not lead to one that stands before."""
    rank = {f"{package}.{name}": order for order, names in enumerate(rooms) for name in names}

    def room(module: str) -> str:
        return ".".join(module.split(".")[: package.count(".") + 2])

    return [
        edge
        for edge in edges
        if room(edge.importer) in rank
        and room(edge.target) != room(edge.importer)
        and edge.target.startswith(package)
        and rank.get(room(edge.target), len(rooms)) >= rank[room(edge.importer)]
    ]


def test_imports_point_one_way() -> None:
    for package in SOURCES:
        files = modules(package)
        assert files
        for module, path in files.items():
            for name, _, node in imported_names(parsed(path), module, path.name == "__init__.py"):
                assert name.split(".")[0] not in FORBIDDEN[package], f"{path}:{node.lineno} imports {name}"


def test_every_module_stands_in_a_layer() -> None:
    assert {layer_of(module) for module in modules("milpasses")} <= set(RANK)


def test_layers_import_what_stands_before_them() -> None:
    wrong = differences(by_edge(upward(own_imports())), KNOWN_UPWARD)
    assert not wrong, f"\n{wrong}"


def test_rooms_import_what_stands_before_them() -> None:
    edges = own_imports()
    found = [edge for package, rooms in ROOMS.items() for edge in between_rooms(edges, package, rooms)]
    wrong = differences(by_edge(found), KNOWN_BETWEEN_ROOMS)
    assert not wrong, f"\n{wrong}"


def test_tools_import_each_other_in_no_circle() -> None:
    every = imports("milpasses_tools", modules("milpasses_tools"))
    assert cycles(without_exports(every, modules("milpasses_tools"))) == []


def test_modules_import_each_other_in_no_circle() -> None:
    every = own_imports()
    against = set(upward(every))  # these have a test of their own; without them circles stay in one layer
    edges = without_exports([edge for edge in every if edge not in against], modules("milpasses"))
    circles = {
        " <-> ".join(circle): sorted(
            {f"{e.place} {e.edge}" for e in edges if e.importer in circle and e.target in circle}
        )
        for circle in cycles(edges)
    }
    wrong = differences(circles, KNOWN_CIRCLES)
    assert not wrong, f"\n{wrong}"


def test_the_top_holds_what_the_design_lists() -> None:
    present = {path.name for path in SOURCES["milpasses"].iterdir() if path.name != "__pycache__"}
    assert present - TOP == set()
    assert TOP - present == LATER


def test_no_module_is_hidden_by_a_name_beside_it() -> None:
    hidden: dict[str, list[str]] = {}
    for package in ("milpasses_kernels", "milpasses"):
        named = modules(package)
        for module, path in named.items():
            if path.name != "__init__.py":
                continue
            for name, origin in bound_names(module, path, named).items():
                beside = f"{module}.{name}"
                if beside in named and beside not in HIDDEN_ENTRY_POINTS and origin != (beside, ""):
                    hidden[beside] = [f"{path.relative_to(ROOT)} binds {name} to another thing"]
    wrong = differences(hidden, PASSES)
    assert not wrong, f"\n{wrong}"


def test_nobody_imports_from_a_module_that_its_function_hides() -> None:
    everything = [edge for package in SOURCES for edge in imports(package, HIDDEN_ENTRY_POINTS)]
    found = [edge for edge in everything if edge.name and edge.importer != "milpasses"]
    wrong = differences(by_edge(found), KNOWN_IMPORTS_OF_HIDDEN)
    assert not wrong, f"\n{wrong}"


def test_only_one_file_imports_numba() -> None:
    users = [
        path.name
        for package in SOURCES
        for module, path in modules(package).items()
        if any(name.split(".")[0] == "numba" for name, _, _ in imported_names(parsed(path), module, False))
    ]
    assert users in (["_jit.py"], ["_jit.py", "doctor.py"])


def test_source_roots_are_no_packages() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "tools" / "__init__.py").exists()


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): [f"{count} lines, of {MOST_LINES} at most"]
        for package in SOURCES
        for path in modules(package).values()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


def test_no_ten_lines_stand_twice() -> None:
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in modules("milpasses").values()
    }
    found: defaultdict[str, list[str]] = defaultdict(list)
    for run in repeated_runs(texts):
        found[f"{run.first[0]} = {run.second[0]}"].append(str(run))
    wrong = differences(found, KNOWN_REPEATED)
    assert not wrong, f"\n{wrong}"


def test_importing_milpasses_stays_light() -> None:
    code = "import sys, milpasses; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "milpasses" in loaded
    assert not loaded & {"numba", "milpasses_tools", "rich", "typer"}


def test_every_part_of_the_bench_can_be_imported() -> None:
    names = [f"bench.{path.stem}" for path in sorted((ROOT / "bench").glob("*.py"))]
    code = f"import importlib; [importlib.import_module(name) for name in {names}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


SAMPLE = """
import a.b
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from c import d
def f():
    from ..e import g
    from . import h
    import_module("i.j")
"""


def test_imports_are_found_wherever_they_stand() -> None:
    names = {(module, name) for module, name, _ in imported_names(ast.parse(SAMPLE), "p.q.r", False)}
    assert names == {
        ("a.b", ""),
        ("typing", "TYPE_CHECKING"),
        ("c", "d"),
        ("p.e", "g"),
        ("p.q", "h"),
        ("i.j", ""),
    }
    names = {(module, name) for module, name, _ in imported_names(ast.parse(SAMPLE), "p.q", True)}
    assert ("p.e", "g") in names
    assert ("p.q", "h") in names


def test_circles_and_upward_imports_are_found() -> None:
    pairs = ["a b", "b c", "c a", "c d", "d e", "e d", "e f"]
    edges = [Import(pair[0], pair[2], "", "") for pair in pairs]
    assert cycles(edges) == [["a", "b", "c"], ["d", "e"]]
    up, down = ("milpasses.recipe.text", "milpasses.budget"), ("milpasses.budget.table", "milpasses.recipe")
    assert upward([Import(*up, "", "x:1"), Import(*down, "", "x:2")]) == [Import(*up, "", "x:1")]
    assert upward([Import("milpasses.report", "milpasses", "__version__", "")])
    assert not upward([Import("milpasses", "milpasses.compress", "", "")])


def test_rooms_are_told_apart() -> None:
    edges = [
        Import(f"p.q.{importer}", f"p.q.{target}", "", "")
        for importer, target in (
            ("b.x", "a.y"),
            ("a.y", "b.x"),
            ("b.x", "c"),
            ("b.x", "b.z"),
            ("free", "a.y"),
        )
    ]
    found = between_rooms(edges, "p.q", (("a",), ("b", "c")))
    assert [edge.edge for edge in found] == ["p.q.a.y -> p.q.b.x", "p.q.b.x -> p.q.c"]


def test_lines_that_stand_twice_are_found() -> None:
    body = [f"x{i} = {i}" for i in range(12)]
    spaced = [
        "import os",
        *(f"if True:  # {i}\n    pass" for i in range(3)),
        "",
        *(f"{line}  " for line in body),
    ]
    (run,) = repeated_runs({"a.py": "\n".join(body), "b.py": "\n".join(spaced)})
    assert str(run) == "a.py:1-12 = b.py:9-20"
    assert not repeated_runs({"a.py": "\n".join(body[:9]), "b.py": "\n".join(spaced)})
    separated = "\n".join([*body[:5], "y = 0", *body[5:]])
    assert not repeated_runs({"a.py": "\n".join(body), "b.py": separated})
