"""The source files as a graph of imports, and runs of lines that stand in two places."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "milpasses_kernels": ROOT / "kernels" / "milpasses_kernels",
    "milpasses": ROOT / "milpasses",
    "milpasses_tools": ROOT / "tools" / "milpasses_tools",
}


class Import(NamedTuple):
    """``importer`` imports the module ``target``, or a ``name`` of it, at ``place`` (file:line)."""

    importer: str
    target: str
    name: str
    place: str

    @property
    def edge(self) -> str:
        return f"{self.importer} -> {self.target}"


def modules(package: str) -> dict[str, Path]:
    """Each module of a package by its dotted name; a package is called as its folder."""
    folder = SOURCES[package]
    named: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def imported_names(
    tree: ast.Module, module: str, is_package: bool
) -> Iterator[tuple[str, str, ast.stmt | ast.expr]]:
    """(module, name or "", node) for all imports, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", node
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package]
                start = ".".join([*base, *start.split(".")] if start else base)
            for alias in node.names:
                yield start, alias.name, node
        elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
            yield from (
                (str(name.value), "", node) for name in node.args[:1] if isinstance(name, ast.Constant)
            )


def _called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def imports(package: str, targets: Iterable[str]) -> list[Import]:
    """What the modules of ``package`` import of ``targets`` (dotted names of modules)."""
    known = set(targets)
    edges: list[Import] = []
    for module, path in modules(package).items():
        for start, name, node in imported_names(parsed(path), module, path.name == "__init__.py"):
            whole = f"{start}.{name}"
            target = whole if whole in known else start
            if target in known and target != module:
                edges.append(Import(module, target, "" if target == whole else name, place(path, node)))
    return edges


def bound_names(package: str, path: Path, known: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The names that a package's ``__init__`` binds: (module, name in it), or (module, "") for a module."""
    names: dict[str, tuple[str, str]] = {}
    inside = set(known)
    for node in parsed(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                origin = (whole, "") if whole in inside else (node.module, alias.name)
                names[alias.asname or alias.name] = origin
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = (package, node.name)
    return names


def only_exports(path: Path) -> bool:
    """Whether a file has nothing but a docstring, imports and names with two underscores."""
    for node in parsed(path).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign) and all(
            isinstance(name, ast.Name) and name.id.startswith("__") for name in node.targets
        ):
            continue
        return False
    return True


def without_exports(edges: Iterable[Import], named: Mapping[str, Path]) -> list[Import]:
    """The edges with what only hands names on taken out: an import of a name leads to where it comes from."""
    shells = {
        module: bound_names(module, path, named)
        for module, path in named.items()
        if path.name == "__init__.py" and only_exports(path)
    }
    resolved: list[Import] = []
    for edge in edges:
        target, name = edge.target, edge.name
        while target in shells and name in shells[target]:
            target, name = shells[target][name]
        if edge.importer not in shells and target not in shells and target != edge.importer:
            resolved.append(edge._replace(target=target))
    return resolved


def cycles(edges: Iterable[Import]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    after: defaultdict[str, list[str]] = defaultdict(list)
    for edge in edges:
        after[edge.importer].append(edge.target)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in after[module]:
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            first = stack.index(module)
            component = stack[first:]
            del stack[first:]
            if len(component) > 1:
                components.append(sorted(component))

    for module in sorted(after):
        if module not in number:
            visit(module)
    return sorted(components)


class Run(NamedTuple):
    """Lines that stand in two places: (file, first line, last line) each."""

    first: tuple[str, int, int]
    second: tuple[str, int, int]

    def __str__(self) -> str:
        return " = ".join(f"{name}:{start}-{stop}" for name, start, stop in self)


def repeated_runs(texts: Mapping[str, str], length: int = 10) -> list[Run]:
    """Runs of ``length`` lines or more that stand twice in ``texts`` (source by file name).

    Spaces are made even; blank lines, comments, imports and lines of brackets alone are passed over.
    """
    lines = {name: _telling_lines(text) for name, text in texts.items()}
    windows: defaultdict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, numbered in lines.items():
        content = [line for _, line in numbered]
        for start in range(len(content) - length + 1):
            windows[tuple(content[start : start + length])].append((name, start))
    pairs = {
        (one, other)
        for places in windows.values()
        for i, one in enumerate(places)
        for other in places[i + 1 :]
    }
    runs: list[Run] = []
    for (name, i), (other, j) in sorted(pairs):
        if ((name, i - 1), (other, j - 1)) in pairs:
            continue
        size = length
        while ((name, i + size - length + 1), (other, j + size - length + 1)) in pairs:
            size += 1
        spans = [
            (file, lines[file][start][0], lines[file][start + size - 1][0])
            for file, start in ((name, i), (other, j))
        ]
        runs.append(Run(spans[0], spans[1]))
    return runs


def _telling_lines(text: str) -> list[tuple[int, str]]:
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = ((number, " ".join(line.split())) for number, line in enumerate(text.splitlines(), 1))
    return [
        (number, line)
        for number, line in numbered
        if number not in skipped and not line.startswith("#") and any(c.isalnum() for c in line)
    ]
