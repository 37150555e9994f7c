"""Try milpasses in the packages that use coremltools: ``python integrations/run.py [NAME ...]``.

Each has a virtual environment of its own in ``.integrations/``, made at the first run: the package as PyPI
has it, and milpasses from this checkout. Nothing else is downloaded: networks have random weights.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".integrations"
# What pip installs, a call each. Ultralytics comes without what it requires: it asks for torchvision, of
# which exporting needs only the version, and that must not bring another torch.
STEPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ultralytics": (
        ("torch==2.13.0",),
        ("--no-deps", "ultralytics", "ultralytics-platform", "ultralytics-thop", "torchvision==0.28.0"),
        ("opencv-python-headless", "requests", "polars", "psutil", "pyyaml", "matplotlib", "pillow", "scipy"),
        ("scikit-learn",),
    ),
    "executorch": (("torch==2.13.0",), ("torch==2.13.0", "executorch")),
    "transformers": (("torch==2.13.0",), ("torch==2.13.0", "transformers")),
    "tensorflow": (("tensorflow==2.15.1", "numpy==1.26.4", "pytest>=8.2"),),  # Python 3.10 or 3.11
}


def python_of(name: str) -> Path:
    """The interpreter of the environment, which is made where it is not there or not finished."""
    folder = ENVIRONMENTS / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists():
        return python
    venv.create(folder, with_pip=True)
    for step in (*STEPS[name], ("-e", str(ROOT))):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True)
    ready.touch()
    return python


def attempt(name: str, environment: dict[str, str]) -> bool:
    """Whether the script ran to its end."""
    try:
        script = Path(__file__).with_name(f"with_{name}.py")
        subprocess.run([python_of(name), script], check=True, env=environment)
    except subprocess.CalledProcessError as error:
        print(f"{name}: failed, status {error.returncode}", file=sys.stderr)
        return False
    return True


def main(names: list[str]) -> int:
    """Run the scripts of ``names``, or all; the number of those that failed."""
    if unknown := set(names) - set(STEPS):
        sys.exit(f"no integration {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    quiet = {"TQDM_DISABLE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "YOLO_AUTOINSTALL": "false"}
    environment = {**os.environ, **quiet}
    environment.pop("PYTHONPATH", None)
    return sum(not attempt(name, environment) for name in names or list(STEPS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
