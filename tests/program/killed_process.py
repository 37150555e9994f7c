"""``python killed_process.py FOLDER``: processes that kill themselves at every step of writing a package.

Prints how many were killed; fails where one left something else than the package that was there, none where
none was, or the new one, or something that the next process does not delete.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder, types

import milpasses as mp
from milpasses.program import blobfile, files, publish, staging

mb: Any = Builder
STEPS: list[tuple[Any, str]] = [
    (blobfile.BlobWriter, "_append"),
    (blobfile.BlobWriter, "finish"),
    (files, "put"),
    (publish, "_rename"),
    (publish, "remove"),
    (files, "remove"),
]


def save_source(path: Path) -> None:
    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((1, 64), types.fp16)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        for index in range(3):
            weight = mb.const(val=rng.standard_normal((64, 64)).astype(np.float16), name=f"weight_{index}")
            x = mb.linear(x=x, weight=weight, name=f"linear_{index}")
        return x

    model: Any = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    model.save(str(path))


def content(package: Path) -> dict[str, bytes] | None:
    """Every file of a package; None where there is nothing."""
    if not package.exists():
        return None
    return {
        str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()
    }


def kill_at(owner: Any, name: str, moment: int, after: bool) -> None:
    """The process is killed when ``name`` is called for the ``moment``-th time, or when that returns."""
    function, calls = getattr(owner, name), 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*given, **named)
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


def main(folder: Path) -> int:
    source, output, kept = (folder / f"{name}.mlpackage" for name in ("source", "output", "kept"))
    save_source(source)
    mp.compress(source, "int8", output=kept)
    mp.compress(source, "int4-b32", output=output)
    old, new = content(kept), content(output)
    assert old != new
    killed = 0
    for force in (False, True):
        for (owner, name), after in ((step, after) for step in STEPS for after in (False, True)):
            for moment in range(1, 100):
                shutil.rmtree(output, ignore_errors=True)
                if force:
                    shutil.copytree(kept, output)
                child = os.fork()
                if child == 0:
                    kill_at(owner, name, moment, after)
                    mp.compress(source, "int4-b32", output=output, force=force)
                    os._exit(0)
                _, status = os.waitpid(child, 0)
                case = f"{name}, call {moment}, after it: {after}, force: {force}"
                if not os.WIFSIGNALED(status):  # there are no more such calls
                    assert os.WEXITSTATUS(status) == 0, case
                    assert content(output) == new, case
                    break
                killed += 1
                assert content(output) in (new, old if force else None), case
                for left in folder.glob(".*"):
                    os.utime(left, (0, 0))
                staging.remove_stale(folder)
                assert not list(folder.glob(".*")), case
    return killed


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
