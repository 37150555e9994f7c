"""How far a command is: the step by its name, a bar where the end is known, what is worked on."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from milpasses_tools._output import console, is_quiet

Progress = Callable[[int, int, str], None]
_COUNTED = 10_000  # from so many on, the share that is done says more than the numbers


@contextmanager
def progress(step: str, quiet: bool = False) -> Generator[Progress]:
    """Yields ``progress(done, total, name)``, which moves a bar on stderr if stderr is a terminal.

    ``step`` says what is done, from the start on: before the first call a model is read. A ``total`` of 0 is
    not known: then only what is done is counted. What the step will still take is estimated by its own speed.
    """
    err = console(stderr=True)
    if quiet or is_quiet() or not err.is_terminal:
        yield lambda done, total, name: None
        return
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    from milpasses_tools._remaining import Remaining

    remaining = Remaining()

    class Count(ProgressColumn):
        """``3/12``; ``25%`` of many; ``3`` where the end is not known; nothing before the first."""

        def render(self, task: Any) -> Text:
            done = int(task.completed)
            if task.total and task.total >= _COUNTED:
                return Text(f"{done / task.total:.0%}")
            return Text(f"{done:,}/{int(task.total):,}" if task.total else f"{done:,}" if done else "")

    class Left(ProgressColumn):
        """Drawn anew several times a second, so that it counts down."""

        def render(self, task: Any) -> Text:
            return Text(remaining.text())

    columns = (
        SpinnerColumn(), TextColumn("{task.fields[step]}", markup=False), BarColumn(bar_width=24), Count(),
        TimeElapsedColumn(), Left(), TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reading the model", total=None, step=step)

        def moved(done: int, total: int, name: str) -> None:
            remaining.update(done, total)
            bar.update(task, completed=done, total=total or None, description=name)

        yield moved
