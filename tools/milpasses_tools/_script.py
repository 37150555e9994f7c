"""A script that a command runs: as Python would run it, and with its own frames alone where it fails."""

import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path

_OURS = str(Path(__file__).parent)


class ScriptError(Exception):
    """A script raised an error, or ended with another status than 0.

    ``error``: what it raised. ``frames``: its traceback without the frames of the command that ran it; empty
    where it ended itself.
    """

    def __init__(self, script: Path, error: BaseException) -> None:
        self.error = error
        self.frames = ""
        if isinstance(error, SystemExit):
            status = error.code
            said = f": {status}" if isinstance(status, str) else f" with status {status}"
            super().__init__(f"{script}: the script ended itself{said}")
            return
        found = traceback.TracebackException.from_exception(error)
        _keep_its_own(found)
        self.frames = "".join(found.format())
        super().__init__(f"{script}: {type(error).__name__}: {error}")


def run_script(script: Path, arguments: list[str]) -> None:
    """Run ``script`` as Python would; what it prints goes to stderr. Raises ``ScriptError``."""
    import runpy

    argv, path = sys.argv, sys.path[:]
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        with redirect_stdout(sys.stderr):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise ScriptError(script, ended) from None
    except Exception as error:
        raise ScriptError(script, error) from error
    finally:
        sys.argv, sys.path[:] = argv, path


def _keep_its_own(found: traceback.TracebackException) -> None:
    """Drop the frames of the command, from those of the errors that led to this one as well."""
    kept = [frame for frame in found.stack if not _is_ours(frame.filename)]
    found.stack = traceback.StackSummary.from_list(kept)
    for before in (found.__cause__, found.__context__):
        if before is not None:
            _keep_its_own(before)


def _is_ours(name: str) -> bool:
    return name.startswith(_OURS) or "runpy" in Path(name).name
