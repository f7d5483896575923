"""webapp/server.py: what an answer does when the server ends."""

import asyncio
import contextlib
import threading
from types import SimpleNamespace

from stackmff.webapp.server import Endpoints


def test_a_server_that_ends_waits_for_no_answer():
    """uvicorn cancels what is not done in time, and would log a traceback of it."""
    started, free = threading.Event(), threading.Event()

    def answer(request, session):
        started.set()
        free.wait(20)

    endpoints = Endpoints(SimpleNamespace(get=lambda token: object()), None)
    request = SimpleNamespace(path_params={"token": "t"})

    async def end():
        task = asyncio.create_task(endpoints.of_session(answer)(request))
        while not started.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(TimeoutError):
            return (await asyncio.wait_for(task, 10)).status_code
        return None

    try:
        loop = asyncio.new_event_loop()
        status = loop.run_until_complete(end())
    finally:
        free.set()
        loop.close()
    assert status == 503
