"""``milpasses trace``: what each graph pass of a conversion did."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from milpasses_tools._options import Force, Json
from milpasses_tools._output import print_json
from milpasses_tools._script import ScriptError, run_script
from milpasses_tools._table import print_table
from milpasses_tools._trace.record import KINDS, Failure, PassRecord, Trace

__all__ = ["Failure", "PassRecord", "Trace", "trace"]


@contextmanager
def trace(
    *,
    dump_after_change: "str | os.PathLike[str] | None" = None,
    dump_after: "str | Sequence[str]" = (),
    on_failure: "str | os.PathLike[str] | None" = None,
    every_value: bool = False,
    keep_programs: bool = False,
    force: bool = False,
) -> Generator[Trace]:
    """Watch the graph passes of every conversion in the ``with`` block::

        with milpasses_tools.trace(dump_after_change="dumps") as t:
            ct.convert(...)
        print(t.changed, t.touched("conv1"))

    ``dump_after_change`` is a folder, which gets a text of the program at the start and after each pass that
    changed it; ``dump_after`` names passes whose records keep the text. ``on_failure`` is a folder where the
    program before a failing pass is kept, for ``replay``: that costs a copy of the graph after each change,
    not of the weights. ``keep_programs`` puts the programs themselves beside the texts, each constant once,
    for ``bisect``. Large constants are read once and then only sampled, unless ``every_value``; what is
    overlooked so is noted at the end. After the block coremltools is as it was.

    The folders must be new or empty unless ``force``, which replaces them whole; each gets its name at the
    end of the block, also of one that an error ends.
    """
    from milpasses.program.files import check_folder, whole_folder
    from milpasses_tools._trace.watch import Watch

    if keep_programs and dump_after_change is None:
        from milpasses.errors import MilpassesError

        raise MilpassesError("keep_programs=True needs a folder: dump_after_change=")
    names = (dump_after,) if isinstance(dump_after, str) else tuple(dump_after)
    dumps, failure = (None if one is None else Path(one) for one in (dump_after_change, on_failure))
    replaces = [one is not None and check_folder(one, force) for one in (dumps, failure)]
    raised: BaseException | None = None
    with nullcontext() if dumps is None else whole_folder(dumps, replaces[0]) as folder:
        watch = Watch(Trace(), folder, names, failure, replaces[1], every_value, keep_programs)
        with watch.installed():
            try:
                yield watch.trace
            except BaseException as error:  # what was found until then is kept
                raised = error
            finally:
                watch.finish()
    if isinstance(raised, KeyboardInterrupt) and dumps is not None:
        raise KeyboardInterrupt(f"what was traced until then is in {dumps}") from raised
    if raised is not None:
        raise raised


def command(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A Python script that converts a model.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="Its arguments (after --).")
    ] = None,
    dump_after_change: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the program to DIR after each pass that changed it."),
    ] = None,
    dump_after: Annotated[
        list[str] | None, typer.Option(metavar="PASS", help="Print the program after this pass.")
    ] = None,
    on_failure: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the program before a failing pass in DIR.")
    ] = None,
    every_value: Annotated[
        bool, typer.Option("--every-value", help="Read all constants after each pass: slow, misses nothing.")
    ] = False,
    keep_programs: Annotated[
        bool,
        typer.Option("--keep-programs", help="Write the constants to DIR as well, for milpasses bisect."),
    ] = False,
    every_pass: Annotated[
        bool, typer.Option("--all", help="List the passes that changed nothing too.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a script, and say what each pass of a conversion did.

    For each pass: ops added, removed and changed (constants count by their values), time and memory. If a
    pass fails, the passes before it are listed and the status is 1; with --on-failure the program before it
    is kept, and milpasses replay DIR runs the pass again.
    """
    if not script.is_file():
        raise FileNotFoundError(2, "no such script", str(script))
    failed: ScriptError | None = None
    with trace(
        dump_after_change=dump_after_change,
        dump_after=dump_after or (),
        on_failure=on_failure,
        every_value=every_value,
        keep_programs=keep_programs,
        force=force,
    ) as found:
        try:
            run_script(script, arguments or [])
        except ScriptError as raised:
            failed = raised
    if as_json:
        error = None if failed is None else f"{type(failed.error).__name__}: {failed.error}"
        print_json({**found.to_dict(), "error": error})
    else:
        _print(found, every_pass)
    if failed is not None:
        if found.failure is None:
            raise failed
        raise typer.Exit(1)


def _print(found: Trace, every_pass: bool) -> None:
    rows = [
        [
            one.index,
            one.name,
            *(" ".join(f"{kind}:{count}" for kind, count in one.counts(what).items()) for what in KINDS[:3]),
            f"{one.seconds:.3f}",
            None if one.memory is None else f"{one.memory / 2**20:.1f}",
        ]
        for one in found.passes
        if every_pass or one.changed or one.error
    ]
    print_table([">", "pass", "added", "removed", "changed", ">seconds", ">MiB"], rows)
    seconds = sum(one.seconds for one in found.passes)
    print(
        f"{len(found.passes):,} passes ran in {seconds:.2f} s, {len(found.changed):,} changed the program; "
        f"tracing took {found.overhead:.2f} s"
    )
    for one in found.passes:
        for note in one.notes:
            print(f"note: after {one.name}: {note}")
    for note in found.notes:
        print(f"note: {note}")
    for one in found.passes:
        if one.text is not None:
            print(f"\nafter {one.name}:\n{one.text}")
    if found.failure is not None:
        print(f"failed: {found.failure.name}: {found.failure.error}")
        if found.failure.folder is not None:
            print(f"the program before it is in {found.failure.folder}; milpasses replay runs the pass again")
