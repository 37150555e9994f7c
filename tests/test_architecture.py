"""Dependencies point one way, tools -> milpasses -> kernels, and files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "milpasses_kernels": ROOT / "kernels" / "milpasses_kernels",
    "milpasses": ROOT / "milpasses",
    "milpasses_tools": ROOT / "tools" / "milpasses_tools",
}
FORBIDDEN = {
    "milpasses_kernels": {"milpasses", "milpasses_tools", "coremltools", "torch"},
    "milpasses": {"milpasses_tools"},
    "milpasses_tools": set(),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports_point_one_way() -> None:
    for package, folder in SOURCES.items():
        files = list(folder.rglob("*.py"))
        assert files
        for path in files:
            assert not imported(path) & FORBIDDEN[package], path


def test_only_one_file_imports_numba() -> None:
    users = [p.name for folder in SOURCES.values() for p in folder.rglob("*.py") if "numba" in imported(p)]
    assert users in (["_jit.py"], ["_jit.py", "doctor.py"])


def test_source_roots_are_no_packages() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "tools" / "__init__.py").exists()


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for folder in SOURCES.values()
        for path in folder.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 460
    }
    assert long == {}


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
