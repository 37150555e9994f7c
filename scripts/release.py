"""Make a release: check that all agree on its version, build it, and say what is left to do.

    python scripts/release.py [--dry-run]

The version stands in pyproject.toml alone. CHANGELOG.md must have a heading for it with a date, and the
checkout must be clean. The wheel and the source archive go to ``dist``, where twine checks them if it is
there. Nothing is uploaded: pushing the tag does that, by ``.github/workflows/release.yml``. ``--dry-run``
only says what would end it.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def version() -> str:
    """The version in pyproject.toml."""
    found = re.search(r'^version = "([^"]+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise SystemExit("pyproject.toml has no version")
    return found[1]


def changes(of: str) -> tuple[str, str]:
    """The date in the changelog's heading of a version, and its text; both empty if there is none."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(of)}(?: \(([^)]*)\))?\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return ("", "") if found is None else (found[1] or "", found[2].strip())


def faults(of: str) -> list[str]:
    """What stands in the way of a release."""
    date, text = changes(of)
    found: list[str] = []
    if not text:
        found.append(f"CHANGELOG.md says nothing of {of}")
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        found.append(f"CHANGELOG.md: give {of} its date, ## {of} (YYYY-MM-DD), not ({date})")
    if git("status", "--porcelain"):
        found.append("the checkout has changes that are not committed")
    if git("tag", "--list", f"v{of}"):
        found.append(f"the tag v{of} is there already: raise the version in pyproject.toml")
    return found


def git(*words: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def build() -> list[Path]:
    """The wheel and the source archive, checked where twine is installed."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)], check=True)
    files = sorted(DIST.iterdir())
    if find_spec("twine") is None:
        print("twine is not installed: the description was not checked")
    else:
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], check=True)
    return files


def main() -> None:
    """Check, build, tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    wanted = version()
    found = faults(wanted)
    for fault in found:
        print(f"{'would end it' if options.dry_run else 'error'}: {fault}", file=sys.stderr)
    if found and not options.dry_run:
        raise SystemExit(1)
    for file in build():
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(ROOT)}")
    print(f"git tag -a v{wanted} -m 'milpasses {wanted}' && git push origin v{wanted}")


if __name__ == "__main__":
    main()
