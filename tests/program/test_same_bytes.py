"""The same model and recipe give the same files, byte for byte, in any process and with any threads."""

import os
import subprocess
import sys
from pathlib import Path

from models import conv_linear_program, convert

import milpasses as mp

_SCRIPT = "import sys, milpasses as mp; mp.compress(sys.argv[1], sys.argv[2], output=sys.argv[3])"
_RECIPE = "int4-b32; op_type=conv min_elements=0 -> pal4-g16"


def files(package: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(package)): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file()
    }


def test_same_input_same_bytes(tmp_path: Path) -> None:
    given = tmp_path / "given.mlpackage"
    convert(conv_linear_program()).save(str(given))
    mp.compress(given, _RECIPE, output=tmp_path / "here.mlpackage")
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "NUMBA_NUM_THREADS": "1"}
    arguments = [str(given), _RECIPE, str(tmp_path / "there.mlpackage")]
    subprocess.run([sys.executable, "-c", _SCRIPT, *arguments], env=environment, check=True)
    here, there = files(tmp_path / "here.mlpackage"), files(tmp_path / "there.mlpackage")
    assert here == there
    assert len(here) == 3
