"""webapp/probing.py: shares of the frames, from a process that may end at any time."""

import os
import signal

import pytest

from stackmff.errors import StackError
from stackmff.fusion.engine_choice import choose_engine
from stackmff.fusion.options import EngineOptions
from stackmff.shipped import WEIGHTS
from stackmff.webapp.probing import ProbeProcess
from stackmff.webapp.results import ShownResult
from tests.shelves import result_in


@pytest.mark.slow
def test_a_process_tells_what_the_network_tells(tmp_path):
    result = ShownResult(result_in(tmp_path / "full"))
    prober = ProbeProcess(EngineOptions(WEIGHTS, device="cpu"))
    try:
        wanted = result.origin_at(20, 10, choose_engine(WEIGHTS, "cpu"))
        assert prober.origin(result, 20, 10) == wanted
        first = prober.process.pid
        os.kill(first, signal.SIGKILL)
        prober.process.wait()
        assert prober.origin(result, 20, 10) == wanted
        assert prober.process.pid != first
        (tmp_path / "full" / "result.json").rename(tmp_path / "gone")
        with pytest.raises(StackError, match="this result was deleted"):
            prober.origin(result, 20, 10)
        process = prober.process
    finally:
        prober.close()
    assert process.poll() is not None
