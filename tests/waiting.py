"""How the tests wait for something: so long that no busy machine makes them fail."""

import time

LATEST = 300.0  # seconds after which a test has come to a standstill; no result depends on it


def until(holds, pause=0.01):
    """Wait until `holds()` is true, and return what it is."""
    end = time.monotonic() + LATEST
    while not (found := holds()):
        assert time.monotonic() < end, "it never holds"
        time.sleep(pause)
    return found
