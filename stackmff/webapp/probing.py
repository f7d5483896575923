"""Which frames a pixel is mixed of: the network tells, in a process of its own.

One answer takes seconds of a processor for a long stack. In the server's process that time would
be taken from clicks, and here it is taken from what has time.
"""

import contextlib
import json
import subprocess
import sys
import threading
from functools import cache
from typing import Any, Protocol

from stackmff.errors import KNOWN_FAILURES, StackError, sentence_of
from stackmff.fusion.engine_choice import engine_by_options
from stackmff.fusion.engines import Engine
from stackmff.fusion.options import EngineOptions
from stackmff.options import build, values_of
from stackmff.processes import (
    answer_channel,
    child_command,
    child_environment,
    end_process,
    start_process,
)
from stackmff.webapp.reporting import NICENESS, bound_time, yield_memory
from stackmff.webapp.results import PixelOrigin, ShownResult

LONGEST, IDLE = 120.0, 600.0  # seconds for an answer, and without a question until the process ends


class Prober(Protocol):
    """Finds the frames that a pixel is mixed of."""

    def origin(self, result: ShownResult, x: int, y: int) -> PixelOrigin | None:
        """As ShownResult.origin_at; None where the network predicts no weights."""


class ProbeProcess:
    """Asks a process, which is started at the first question and ends when it is idle.

    Args:
        network: which one tells, and what runs it.
    """

    def __init__(self, network: EngineOptions) -> None:
        self.network = values_of(network)
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def origin(self, result: ShownResult, x: int, y: int) -> PixelOrigin | None:
        """As ShownResult.origin_at; None where the network predicts no weights.

        Raises:
            StackError: the process cannot tell.
        """
        place = {"folder": str(result.folder), "x": x, "y": y}
        question = json.dumps({"network": self.network, **place})
        with self.lock:
            # The process may have ended since it was asked last.
            answer = self._asked(question) or self._asked(question)
        if not answer:
            raise StackError("the parts of the frames cannot be computed: try again later")
        told: dict[str, Any] = json.loads(answer)
        if "error" in told:
            raise StackError(told["error"])
        if told["origin"] is None:
            return None
        shares, added = told["origin"]
        return PixelOrigin([(name, share) for name, share in shares], added)

    def _asked(self, question: str) -> str:
        """The line that answers a question; "" where the process has ended."""
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "ascii"}
            command = child_command("stackmff.webapp.probing")
            self.process = start_process(command, NICENESS, env=child_environment(), **pipes)
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(question + "\n")
            self.process.stdin.flush()
            answer: str = self.process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            self._end()
        return answer

    def _end(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            process, self.process = self.process, None
            end_process(process)
            assert process.stdin is not None and process.stdout is not None
            process.stdout.close()
            with contextlib.suppress(OSError):  # what it was asked last did not reach it
                process.stdin.close()

    def close(self) -> None:
        """End the process."""
        with self.lock:
            self._end()


@cache
def engine_of(network: EngineOptions) -> Engine:
    """The engine of the questions, which is loaded once."""
    return engine_by_options(network)


def answer(question: dict[str, Any]) -> PixelOrigin | None:
    """The answer to a question of ProbeProcess.

    Raises:
        StackError: the result is damaged, or was deleted meanwhile.
    """
    engine = engine_of(build(EngineOptions, question["network"]))
    if engine.output != "weights":
        return None
    try:
        result = ShownResult(question["folder"], painted=False)
    except FileNotFoundError as error:
        raise StackError("this result was deleted") from error
    return result.origin_at(question["x"], question["y"], engine)


def main() -> int:
    """Answer the questions on stdin, a line of JSON each, until it ends."""
    channel = answer_channel()
    yield_memory()
    bound_time(IDLE)
    for line in sys.stdin:
        bound_time(LONGEST)
        try:
            told: dict[str, Any] = {"origin": answer(json.loads(line))}
        except KNOWN_FAILURES as error:
            told = {"error": sentence_of(error)}
        channel.write(json.dumps(told) + "\n")
        channel.flush()
        bound_time(IDLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
