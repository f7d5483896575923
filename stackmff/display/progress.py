"""Progress bars."""

import contextlib
from functools import partial

from tqdm import tqdm


@contextlib.contextmanager
def stage(name, shown):
    """A bar on stderr; gives the function progress(done, total), or None where not `shown`.

    `shown` may be a function, which is called as shown(name, done, total) instead.
    """
    if not shown:
        yield None
        return
    if callable(shown):
        yield partial(shown, name)
        return
    with tqdm(desc=name, unit="", leave=False, disable=None) as bar:

        def progress(done, total):
            bar.total = total
            bar.update(done - bar.n)

        yield progress
