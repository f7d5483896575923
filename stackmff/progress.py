"""Progress bars."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from tqdm import tqdm

from stackmff.processes import Progress

# Shows how far the stages of some work are: called as show(name of the stage, done, total).
ShowStage = Callable[[str, int, int], None]


@contextlib.contextmanager
def stage(name: str, shown: bool | ShowStage) -> Iterator[Progress | None]:
    """Show the progress of one stage of some work while the block runs.

    Args:
        name: of the stage.
        shown: True: a bar on stderr; False: nothing; or a function that shows it instead.
    Yields:
        The function to call with (steps done, steps in all), or None where nothing is shown.
    """
    if not shown:
        yield None
        return
    if callable(shown):
        yield partial(shown, name)
        return
    with tqdm(desc=name, unit="", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
