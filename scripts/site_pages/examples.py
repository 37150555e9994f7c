"""The page of examples: each script with what it is for, and the notebook with what its cells printed."""

import ast
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent.parent / "examples"

HEAD = """\
# Examples

Each script runs in seconds on small networks that were really trained and come with the repository, with no download
and no Mac: `python examples/convert.py`. All run as tests. Each writes, if anything, to a temporary folder.

"""


def scripts() -> list[Path]:
    """The scripts that are meant to be run, by name."""
    return sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))


def notebooks() -> list[Path]:
    """The notebooks, by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def script_section(path: Path) -> str:
    """A script: its docstring in prose, its code without it."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    summary, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    code = "\n".join(source.splitlines()[tree.body[0].end_lineno or 0 :]).strip()
    return f"## {summary.rstrip('.')}\n\n`examples/{path.name}`\n{rest}\n\n```python\n{code}\n```\n"


def output_text(cell: dict[str, Any]) -> str:
    """What a cell printed and gave, as text."""
    texts: list[str] = []
    for output in cell.get("outputs", ()):
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        texts.append("".join(text))
    return "".join(texts).rstrip()


def notebook_section(path: Path) -> str:
    """A notebook: its cells, one after another."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(f"#{source}" if source.startswith("#") else source)  # one heading level down
        else:
            parts.append(f"```python\n{source}\n```")
            if said := output_text(cell):
                parts.append(f"```text\n{said}\n```")
    first, *others = parts
    return "\n\n".join([first, f"`examples/{path.name}`", *others]) + "\n"


def page() -> str:
    """Markdown of the page."""
    sections = [script_section(path) for path in scripts()] + [notebook_section(path) for path in notebooks()]
    return HEAD + "\n".join(sections)
