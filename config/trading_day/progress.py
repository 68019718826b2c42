"""What is shown meanwhile: a moving bar on a terminal, a line per finished step in a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[], object]


class Steps:
    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, text: str, total: int = 1) -> Iterator[Advance]:
        """Gives a function to call after each of `total` parts, from any thread."""
        if self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description:<44}"), BarColumn(bar_width=24))
            with Progress(*columns, MofNCompleteColumn(), TimeElapsedColumn(), console=self._console) as bars:
                bar = bars.add_task(text, total=total)
                yield lambda: bars.advance(bar)
                bars.update(bar, completed=total)
            return
        began = time.monotonic()
        yield lambda: None
        self._console.print(f"{text}: {total} in {time.monotonic() - began:.1f} s", soft_wrap=True, highlight=False)
