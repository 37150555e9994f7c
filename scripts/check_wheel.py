"""Build the wheel, check what is in it, install it in a clean virtual environment, and use it there.

    python scripts/check_wheel.py [--oldest] [--python PYTHON]

``--oldest`` takes the oldest dependencies that pyproject.toml allows, else pip chooses, which is the newest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from oldest_dependencies import constraints

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"milpasses", "milpasses_kernels", "milpasses_tools"}
NEEDED = {
    "milpasses/py.typed",
    "milpasses_kernels/py.typed",
    "milpasses_tools/py.typed",
    "milpasses_tools/_explain/advice.yaml",
    "milpasses_tools/_sweep/page.html",
    "milpasses_tools/_view/page.html",
    "milpasses_tools/demo_data/digits.npz",
}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The standard output of a command; its own output and status if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def check_content(wheel: Path) -> None:
    """Exactly the three packages, with their data and type marks, and nothing of the tests."""
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    if top != PACKAGES:
        sys.exit(f"{wheel.name} holds {sorted(top)}, not {sorted(PACKAGES)}")
    if missing := NEEDED - names:
        sys.exit(f"{wheel.name} lacks {sorted(missing)}")
    if stray := [name for name in names if "__pycache__" in name or "/tests/" in name]:
        sys.exit(f"{wheel.name} holds {stray[:3]}")


def main() -> None:
    """Build, check, install, use."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--oldest", action="store_true")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the clean environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", place, ROOT)
        (wheel,) = place.glob("*.whl")
        check_content(wheel)
        run(options.python, "-m", "venv", place / "venv")
        binaries = place / "venv" / "bin"
        limits: list[str | Path] = []
        if options.oldest:
            limits = ["-c", place / "oldest.txt"]
            (place / "oldest.txt").write_text("\n".join(constraints()), encoding="utf-8")
        run(binaries / "python", "-m", "pip", "install", "--quiet", *limits, wheel)
        used = use(binaries, place)
        versions = json.loads(run(binaries / "python", "-m", "pip", "list", "--format", "json"))
        print(f"{wheel.name}: {used}, in a clean environment of")
        print(", ".join(f"{package['name']} {package['version']}" for package in versions))


def use(binaries: Path, place: Path) -> str:
    """Run the commands that a newcomer would; what worked, in words."""
    version = run(binaries / "milpasses", "--version", cwd=place).strip()
    run(binaries / "milpasses", "doctor", "--json", cwd=place)
    run(binaries / "milpasses", "demo", cwd=place)
    demo = place / "milpasses-demo"
    if not (demo / "sweep" / "report.html").is_file():
        sys.exit("the demo wrote no report of its sweep")
    package = demo / "digits-pal4-g16.mlpackage"
    facts = json.loads(run(binaries / "milpasses", "explain", package, "--json", cwd=place))
    without_torch = "import importlib.util as u; assert not u.find_spec('torch')"
    run(binaries / "python", "-c", without_torch, cwd=place)
    return f"{version}, demo and explain ({len(facts)} facts) work"


if __name__ == "__main__":
    main()
