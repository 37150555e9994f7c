"""Packages that were changed by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milpasses.program.package import open_package


def rewrite_spec(package: Path, output: Path, change: Callable[[Any], None]) -> Path:
    """A copy of ``package`` with its specification changed."""
    shutil.copytree(package, output)
    opened = open_package(output)
    change(opened.spec)
    opened.spec_path.write_bytes(opened.spec.SerializeToString())
    return output
