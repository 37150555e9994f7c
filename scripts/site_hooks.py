"""Hooks of mkdocs: pages and pictures that the code itself makes, and pages from the repository's top."""

import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # coremltools' progress bars
logging.getLogger("coremltools").setLevel(logging.ERROR)

from mkdocs.structure.files import File, Files  # noqa: E402
from site_pages import commands, examples, fields, pictures, short_names  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "reference/commands.md": commands.page,
    "reference/fields.md": fields.page,
    "reference/short-names.md": short_names.page,
    "examples.md": examples.page,
    "changelog.md": lambda: (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    "contributing.md": lambda: (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
}


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add what is generated, so that links into it are checked like any other."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    for name, draw in pictures.PICTURES.items():
        files.append(File.generated(config, f"how/{name}", content=draw()))
    return files
