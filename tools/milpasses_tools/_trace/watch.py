"""The part of ``trace`` that stands between coremltools' pipelines and its passes."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs

from milpasses import _coremltools as host
from milpasses.program.files import whole_folder, write_text
from milpasses_tools._bisect.store import Store
from milpasses_tools._trace.fingerprint import Snapshot, Values, compare, stale
from milpasses_tools._trace.keep import Kept, capture
from milpasses_tools._trace.record import Failure, PassRecord, Trace
from milpasses_tools._view.program import view_program
from milpasses_tools._view.text import text_lines


@attrs.define(eq=False)
class Watch:
    """Watches pipelines while ``installed``; a pipeline that a pass runs by itself is a part of the pass."""

    trace: Trace
    dumps: Path | None
    dump_after: tuple[str, ...]
    on_failure: Path | None
    replaces_failure: bool
    every_value: bool
    keep_programs: bool = False
    values: Values = attrs.field(factory=Values)
    snapshot: Snapshot | None = None
    pipeline: Any = None
    in_pass: bool = False
    kept: Kept | None = None  # the program before the pass that ran last
    current: Kept | None = None  # the program now, if it was captured since it changed
    options: Any = None

    @contextmanager
    def installed(self) -> Generator[None]:
        """Put this watch in; take it out at the end, whatever happens."""
        self.values.thorough = self.every_value
        with host.watched_passes(self.run, lambda registry: _Registry(registry, self)):
            yield

    def run(self, apply: Any, program: Any, pipeline: Any) -> None:
        """Run a whole pipeline."""
        if self.in_pass:
            apply(program, pipeline)
            return
        started = perf_counter()
        first = self.snapshot is None
        self.pipeline, self.current = pipeline, None
        self.snapshot = Snapshot.take(program, self.values)
        if first and self.dumps is not None:
            self._write(program, "000-start", [])
        self.trace.overhead += perf_counter() - started
        ran = len(self.trace.passes)
        try:
            apply(program, pipeline)
        except Exception as error:
            if len(self.trace.passes) > ran:
                self._fail(self.trace.passes[-1], error)
            raise

    def run_pass(self, graph_pass: Any, name: str, program: Any, options: Any) -> None:
        """Run one pass, and find out what it did."""
        started = perf_counter()
        record = PassRecord(len(self.trace.passes) + 1, name, str(self.pipeline))
        self.trace.passes.append(record)
        if self.on_failure is not None:
            self.current = self.current or capture(program)
            self.kept, self.options = self.current, options
        memory, begun = _resident(), perf_counter()
        self.trace.overhead += begun - started
        self.in_pass = True
        try:
            graph_pass(program)
        finally:
            self.in_pass = False
            ended = perf_counter()
            record.seconds = ended - begun
            now = _resident()
            record.memory = None if now is None or memory is None else now - memory
        self._look(record, program)
        self.trace.overhead += perf_counter() - ended

    def _look(self, record: PassRecord, program: Any) -> None:
        after = Snapshot.take(program, self.values)
        assert self.snapshot is not None
        changes, record.changed = compare(self.snapshot, after)
        record.changes = tuple(changes)
        self.snapshot = after
        if record.changed:
            self.current = None
            before = {note for one in self.trace.passes for note in one.notes}
            record.notes = tuple(note for note in dict.fromkeys(stale(program)) if note not in before)
            if self.dumps is not None:
                title = f"{record.index:03d}-{record.name.replace('::', '.')}"
                self._write(program, title, [*map(str, changes), *record.notes])
        if record.name in self.dump_after:
            record.text = "\n".join(text_lines(view_program(program)))

    def _write(self, program: Any, title: str, notes: list[str]) -> None:
        assert self.dumps is not None
        lines = [*(f"# {note}" for note in notes), *text_lines(view_program(program))]
        write_text(self.dumps / f"{title}.mil", "\n".join(lines) + "\n")
        if self.keep_programs:
            Store(self.dumps).add(title, capture(program))

    def _fail(self, record: PassRecord, error: Exception) -> None:
        record.error = f"{type(error).__name__}: {error}"
        failure = Failure(record.name, record.error)
        if self.on_failure is not None and self.kept is not None:
            passes = list(self.pipeline.passes)
            with whole_folder(self.on_failure, self.replaces_failure) as folder:
                self.kept.save(folder, record.name, self.options, str(self.pipeline), passes, record.error)
            failure.folder, self.replaces_failure = self.on_failure, True  # by a later failure
        self.trace.failure = failure

    def finish(self) -> None:
        """What can only be said at the end."""
        started = perf_counter()
        if self.snapshot is not None and not self.every_value:
            names = filter(None, map(self.snapshot.constant_of, self.values.overlooked()))
            self.trace.notes.extend(
                f"constant {name} was changed in place; every_value=True says by which pass" for name in names
            )
        ran = {one.name for one in self.trace.passes}
        self.trace.notes.extend(f"pass {name} did not run" for name in self.dump_after if name not in ran)
        self.snapshot = self.kept = self.current = None
        self.values = Values()
        self.trace.overhead += perf_counter() - started


class _Registry:
    """coremltools' registry of passes, as a pipeline sees it: each pass comes with the watch around it."""

    def __init__(self, registry: Any, watch: Watch) -> None:
        self._registry, self._watch = registry, watch

    def __getitem__(self, name: str) -> Any:
        found = self._registry[name]
        return found if self._watch.in_pass else _Pass(found, name, self._watch)

    def __contains__(self, name: str) -> bool:
        return name in self._registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)


class _Pass:
    """A pass with the watch around it."""

    def __init__(self, graph_pass: Any, name: str, watch: Watch) -> None:
        self._pass, self._name, self._watch, self._options = graph_pass, name, watch, None

    def set_options(self, options: Any) -> None:
        self._options = options
        self._pass.set_options(options)

    def __call__(self, program: Any) -> None:
        self._watch.run_pass(self._pass, self._name, program, self._options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pass, name)


def _resident() -> int | None:
    """Bytes of memory that this process has now; None where the system does not tell so cheaply."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
