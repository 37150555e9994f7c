"""Statistics saved, loaded and merged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from statistics_programs import const, program

from milpasses.data.collect import Statistics, statistics
from milpasses.errors import MilpassesError, Refusal


class TestFiles:
    def found(self, full: bool = False, seed: int = 0, wide: int = 4) -> Statistics:
        weight = np.ones((5, wide), np.float32)

        def build(x0: Any, x1: Any) -> Any:
            read = mb.gather(x=const(np.ones((3, 4), np.float32), "table"), indices=x1, axis=0)
            return mb.linear(x=x0, weight=const(weight)), mb.add(
                x=read, y=const(np.ones((4, 4), np.float32), "c")
            )

        model = program(build, (2, wide), (4,), dtypes=(types.fp32, types.int32))
        return statistics(model, "random", limit=3, seed=seed, full=full)

    def equal(self, one: Statistics, other: Statistics) -> None:
        assert list(one) == list(other)
        for name in one:
            for field in ("axis", "taps", "rows", "used_by"):
                assert getattr(one[name], field) == getattr(other[name], field)
            np.testing.assert_array_equal(one[name].sum, other[name].sum)
            np.testing.assert_array_equal(one[name].square_sum, other[name].square_sum)
            assert (one[name].gram is None) == (other[name].gram is None)
            if one[name].gram is not None:
                np.testing.assert_array_equal(one[name].gram, other[name].gram)
        assert one.lookups.keys() == other.lookups.keys()
        for name in one.lookups:
            np.testing.assert_array_equal(one.lookups[name], other.lookups[name])
        for field in ("ranges", "skipped", "samples", "data", "random"):
            assert getattr(one, field) == getattr(other, field)

    @pytest.mark.parametrize("full", [False, True])
    def test_round_trip(self, tmp_path: Path, full: bool):
        found = self.found(full)
        found.save(tmp_path / "statistics")  # whatever the name
        assert [path.name for path in tmp_path.iterdir()] == ["statistics"]
        loaded = Statistics.load(tmp_path / "statistics")
        self.equal(found, loaded)
        assert loaded.random
        assert loaded.samples == 3
        assert set(loaded.skipped) == {"c"}

    def test_reasons_are_stored_as_codes_and_older_files_state_them(self, tmp_path: Path):
        path = tmp_path / "s.npz"
        self.found().save(path)
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        reason = {"code": "no-use-rule", "details": {"op_type": "add", "op": "add_0", "param": "y"}}
        assert about["skipped"] == {"c": reason}
        about |= {"milpasses_statistics": 1, "skipped": {"c": "add add_0: add has no rule for its y"}}
        np.savez(path, **{**arrays, "about": np.array(json.dumps(about))})
        loaded = Statistics.load(path)
        assert loaded.skipped == {"c": Refusal("stated", text="add add_0: add has no rule for its y")}
        assert str(loaded.skipped["c"]) == str(self.found().skipped["c"])
        loaded.save(path)
        assert Statistics.load(path).skipped == loaded.skipped

    def test_merge_is_as_if_run_at_once(self):
        one, other = self.found(seed=1, full=True), self.found(seed=2, full=True)
        merged = one.merge(other)
        assert merged.samples == 6
        assert merged["weight"].rows == 12
        np.testing.assert_array_equal(merged["weight"].gram, one["weight"].gram + other["weight"].gram)
        np.testing.assert_array_equal(merged.lookups["table"], one.lookups["table"] + other.lookups["table"])
        span, parts = merged.ranges["x0"], (one.ranges["x0"], other.ranges["x0"])
        assert (span.min, span.max) == (min(p.min for p in parts), max(p.max for p in parts))
        assert merged.data == "random data, seed 1; random data, seed 2"

    def test_merge_refuses_other_models(self):
        with pytest.raises(MilpassesError, match="different models"):
            self.found().merge(self.found(wide=5))
        with pytest.raises(MilpassesError, match="only one of them is full"):
            self.found().merge(self.found(full=True))

    def test_load_refuses_what_is_no_statistics(self, tmp_path: Path):
        path = tmp_path / "s.npz"
        with pytest.raises(MilpassesError, match="no such file"):
            Statistics.load(path)
        path.write_bytes(b"not a zip")
        with pytest.raises(MilpassesError, match="not statistics, or damaged"):
            Statistics.load(path)
        np.savez(path, a=np.ones(3))
        with pytest.raises(MilpassesError, match="not statistics"):
            Statistics.load(path)
        np.savez(path, about=np.array(json.dumps({"milpasses_statistics": 99})))
        with pytest.raises(MilpassesError, match="version 99"):
            Statistics.load(path)
        with path.open("wb") as file:
            np.save(file, np.ones(3))
        with pytest.raises(MilpassesError, match="not statistics"):
            Statistics.load(path)
        self.found().save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(MilpassesError, match="damaged"):
            Statistics.load(path)
