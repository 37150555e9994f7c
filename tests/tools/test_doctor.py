"""``milpasses doctor``: what it finds here, and what it says where something is missing."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from milpasses_tools import doctor
from test_cli import in_own_process

module: Any = sys.modules["milpasses_tools.doctor"]


def only(checks: list[Any]) -> Any:
    (check,) = checks
    return check


class TestHere:
    def test_this_machine_is_healthy_and_nothing_else_is_printed(self):
        done = in_own_process("doctor", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        content = json.loads(done.stdout)
        assert content["healthy"] is True
        checks = {check["name"]: check for check in content["checks"]}
        assert {"python", "coremltools", "numpy", "numba", "attrs", "numba compiler", "disk"} <= set(checks)
        # 64 x 128 codes of 4 bits, 4 tables of 16 entries, 64 zeros of bias.
        sizes = f"{2 * 64 * 128 + 128:,} -> {64 * 128 // 2 + 4 * 16 * 2 + 128:,} bytes"
        expected = f"compressed a program with pal4-g16 ({sizes}) and read it back exactly"
        assert checks["self-test"]["found"] == expected

    def test_the_function(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module, "_CHECKS", (("memory", module._memory), ("self-test", module._self_test)))
        assert [check.name for check in doctor().checks] == ["memory", "self-test"]
        assert doctor().checks[1].status == "ok"
        assert doctor().healthy

    def test_command(self, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch):
        checks = (("memory", module._memory), ("disk", module._disk))
        monkeypatch.setattr(module, "_CHECKS", checks)
        outcome = milpasses_command("doctor")
        assert (outcome.status, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert [line.split()[1] for line in lines[:2]] == ["memory", "disk"]
        assert lines[-1] == "everything works"
        content = json.loads(milpasses_command("doctor", "--json").out)
        assert content["healthy"] is True
        assert [check["name"] for check in content["checks"]] == ["memory", "disk"]

    @pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
    def test_where_compiled_kernels_are_kept(self):
        compiler, cache = module._numba()
        assert (compiler.status, cache.status) == ("ok", "ok")
        assert Path(cache.found.removesuffix(" is writable")).is_dir()


class TestTrouble:
    def test_one_failure_hides_no_other_check(self, milpasses_command: Run, monkeypatch: pytest.MonkeyPatch):
        def broken() -> Any:
            raise ImportError("no\nlibrary")

        monkeypatch.setattr(module, "_CHECKS", (("native", broken), ("disk", module._disk)))
        outcome = milpasses_command("doctor")
        assert outcome.status == 1
        lines = outcome.out.splitlines()
        assert lines[0] == "fail  native  ImportError: no library"
        assert lines[1].strip().startswith("to do: ")
        assert lines[2].split()[1] == "disk"
        assert lines[-1] == "1 of 2 checks failed"
        assert json.loads(milpasses_command("doctor", "--json").out)["healthy"] is False

    def test_versions_out_of_bounds(self, monkeypatch: pytest.MonkeyPatch):
        versions = {"numpy": "2.4.0", "numba": "0.60.0"}

        def version(name: str) -> str:
            if name in ("torch", "rich"):
                raise module.PackageNotFoundError(name)
            return versions.get(name, "10.0" if name == "coremltools" else "99.0")

        monkeypatch.setattr(module, "version", version)
        checks = {check.name: check for check in module._packages()}
        failed = {name for name, check in checks.items() if check.status == "fail"}
        assert failed == {"numpy", "numba", "coremltools", "rich"}
        assert checks["numpy"].found == "2.4.0, supported is <2.4,>=1.26"
        assert checks["numpy"].advice == 'pip install "numpy<2.4,>=1.26"'
        assert (checks["torch"].status, checks["torch"].advice) == ("ok", "")
        assert not {"pytest", "ruff"} & set(checks)

    def test_an_old_python(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module.platform, "python_version", lambda: "3.9.1")
        (python,) = (check for check in module._python() if check.name == "python")
        assert (python.status, python.advice) == ("fail", "install a Python >=3.10")

    def test_native_libraries_that_do_not_load(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "coremltools.libmilstoragepython", None)
        storage, packages = module._native()
        assert (storage.status, packages.status) == ("fail", "ok")
        assert "wheel" in storage.advice

    def test_no_folder_for_compiled_kernels(self, monkeypatch: pytest.MonkeyPatch):
        class NoLocator:
            def find_spec(self, name: str, *_: object) -> None:
                if name == "milpasses_kernels.bitpack":
                    raise RuntimeError("cannot cache function 'pack': no locator available")

        import milpasses_kernels.bitpack as bitpack

        monkeypatch.delitem(sys.modules, "milpasses_kernels.bitpack")
        monkeypatch.delattr("milpasses_kernels.bitpack")
        monkeypatch.setattr(sys, "meta_path", [NoLocator(), *sys.meta_path])
        check = only(module._numba())
        assert (check.name, check.status) == ("numba cache", "fail")
        assert "NUMBA_CACHE_DIR" in check.advice
        assert bitpack is not None

    def test_kernels_that_are_not_compiled(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        assert only(module._numba()).status == "warn"

    def test_a_kernel_that_computes_wrong(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("milpasses_kernels.bitpack.pack", lambda codes, nbits: codes[:8])
        assert only(module._numba()).status == "fail"

    def test_threads(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", "3")
        assert "threads used: 3 (MILPASSES_NUM_THREADS)" in only(module._processors()).found
        monkeypatch.setenv("MILPASSES_NUM_THREADS", "many")
        assert only(module._processors()).status == "fail"

    def test_predictions(self, monkeypatch: pytest.MonkeyPatch):
        import coremltools.models.model as models

        monkeypatch.setattr(sys, "platform", "linux")
        assert only(module._predictions()).found.startswith("not on ")
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(models, "_MLModelProxy", None)
        assert only(module._predictions()).status == "warn"
        monkeypatch.setattr(models, "_MLModelProxy", object)
        assert only(module._predictions()).found.startswith("possible")

    def test_little_memory_and_disk(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module, "_free_memory", lambda: (500 << 20, "free"))
        monkeypatch.setattr(module, "_ENOUGH_DISK", 1 << 60)
        memory, disk = only(module._memory()), only(module._disk())
        assert (memory.status, memory.found) == ("warn", "0.5 GiB free")
        assert disk.status == "warn"
        assert "TMPDIR" in disk.advice

    def test_free_memory_where_only_the_total_is_known(self, monkeypatch: pytest.MonkeyPatch):
        free, what = module._free_memory()
        assert free > 1 << 20
        monkeypatch.setattr(module.Path, "exists", lambda self: False)
        total, what = module._free_memory()
        assert what == "in all"
        assert total >= free

    def test_a_self_test_that_reads_back_other_values(self, monkeypatch: pytest.MonkeyPatch):
        true_model = module._linear

        def other_values(ct: Any, weight: Any) -> Any:
            weight = weight.copy()
            weight[3, 5] = weight[3, 6]
            return true_model(ct, weight)

        monkeypatch.setattr(module, "_linear", other_values)
        check = only(module._self_test())
        assert check.status == "fail"
        assert "is not the weight" in check.found

    def test_a_self_test_in_which_nothing_is_compressed(self, monkeypatch: pytest.MonkeyPatch):
        import milpasses

        compress = milpasses.compress
        monkeypatch.setattr(
            milpasses, "compress", lambda path, recipe, output: compress(path, "keep", output=output)
        )
        assert only(module._self_test()).found.startswith("compressed 0 weights, not 1")
