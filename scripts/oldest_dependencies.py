"""The oldest versions that pyproject.toml allows, as constraints for pip.

    python scripts/oldest_dependencies.py [EXTRA ...] > oldest.txt; pip install -c oldest.txt .

A lower bound becomes ``==`` that release: ``numpy>=1.26`` is ``numpy==1.26.*``, the newest of its bug fixes.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: pip brings its own
    from pip._vendor import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
BOUND = re.compile(r"([\w.-]+)\s*(?:\[[^]]*\])?\s*(>=|==)\s*([\d.]+)")


def constraints(*extras: str) -> list[str]:
    """One constraint for each dependency, and for each of the extras named."""
    with PROJECT.open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    lines: list[str] = []
    for requirement in wanted:
        found = BOUND.match(requirement)
        if found is None:
            raise SystemExit(f"{requirement!r} in {PROJECT.name} has no lower bound")
        name, _, version = found.groups()
        lines.append(f"{name}=={version}" if version.count(".") > 1 else f"{name}=={version}.*")
    return lines


if __name__ == "__main__":
    print("\n".join(constraints(*sys.argv[1:])))
