"""What the tests of the tools share: the command in this process, and the demo network as saved packages."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from milpasses_tools.cli import app


class Outcome(NamedTuple):
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def milpasses_command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: ``milpasses_command("explain", path)``."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(list(map(str, arguments)), prog_name="milpasses")
        status = ended.value.code
        return Outcome(
            status if isinstance(status, int) else 0 if status is None else 1, *capsys.readouterr()
        )

    return run


@pytest.fixture(scope="session")
def digits_packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo network, uncompressed, for iOS16 and for iOS18."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    from milpasses_tools import digits

    folder = tmp_path_factory.mktemp("digits")
    packages = {target: folder / f"{target}.mlpackage" for target in ("iOS16", "iOS18")}
    for target, path in packages.items():
        digits.convert(target=target).save(str(path))
    return packages
