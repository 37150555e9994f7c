"""The suite on the oldest and the newest dependencies, without torch, and without any extra: ``nox``.

``nox -s oldest`` runs one session; interpreters that a machine has not are skipped. torch comes from
PyPI, whose builds for Linux carry CUDA: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives
the small one.
"""

import os
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "scripts"))
from oldest_dependencies import constraints

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
RUN = ("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q")
TOOLS = ("pytest>=8.2", "pytest-cov>=5.0", "pytest-xdist>=3.6", "hypothesis>=6.100")

nox.options.sessions = ["oldest", "newest", "no_torch", "no_extras"]
nox.options.error_on_missing_interpreters = bool(os.environ.get("CI"))


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """The oldest dependencies that pyproject.toml allows, on the oldest Python."""
    limits = Path(session.create_tmp()).resolve() / "oldest.txt"
    limits.write_text("\n".join(constraints()), encoding="utf-8")
    session.install("-c", str(limits), ".[torch,images]", *TOOLS)
    session.run(*RUN, *session.posargs)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest ones, with every extra: Model Explorer's tests run, too."""
    session.install(".[test,model-explorer]")
    session.run(*RUN, *session.posargs)


@nox.session(python="3.12")
def no_torch(session: nox.Session) -> None:
    """Without torch: the interpreter runs on NumPy, and what needs torch skips."""
    session.install(".[images,plots,dask]", *TOOLS)
    session.run("python", "-c", "import importlib.util as u; assert not u.find_spec('torch')")
    session.run(*RUN, *session.posargs)


@nox.session(python="3.12")
def no_extras(session: nox.Session) -> None:
    """What ``pip install milpasses`` gives: no extra is needed by accident."""
    session.install(".", *TOOLS)
    session.run(*RUN, *session.posargs)
