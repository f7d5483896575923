"""Lines of work for the page of app.py: one process after the other, each of which can be ended."""

import contextlib
import json
import subprocess
import threading
from collections import deque

from stackmff.processes import child_command, child_environment, how_it_ended

WORKER = "stackmff.webapp.worker"
PATIENCE = 3  # seconds that a process has to end by itself


class Job:
    """Something for a process of webapp/worker.py to do.

    Args:
        spec: as worker.WORK takes it, with "kind".
        heard: called with each message of the process, in a thread of the Line.
        ended: called once with a sentence, None where all went well, "" where it was cancelled.
    """

    def __init__(self, spec, heard, ended):
        self.spec, self.heard, self.ended = spec, heard, ended
        self.cancelled = False
        self.process = None

    def run(self):
        """Start the process and listen until it ends; returns the sentence for `ended`."""
        command = child_command(WORKER)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": child_environment()}
        # In a group of its own: Ctrl-C at the terminal ends the page, which ends its work.
        self.process = subprocess.Popen(command, **pipes, start_new_session=True)
        error = None
        with self.process:
            if self.cancelled:
                self.stop()
            with contextlib.suppress(OSError):
                self.process.stdin.write(json.dumps(self.spec).encode() + b"\n")
                self.process.stdin.close()
            for line in self.process.stdout:
                message = json.loads(line)
                error = message.get("error", error)
                if not self.cancelled:
                    self.heard(message)
        if self.cancelled:
            return ""
        if self.process.returncode:
            return f"the work stopped: {how_it_ended(self.process.returncode)}"
        return error

    def stop(self):
        """End the process at once, whatever it does; nothing where there is none."""
        self.cancelled = True
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Line:
    """Does jobs in the order they came.

    Args:
        count: how many are done at a time.
    """

    def __init__(self, count=1):
        self.changed = threading.Condition()
        self.waiting = deque()
        self.running = set()
        self.closed = False
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def add(self, job):
        """Put a Job at the end."""
        with self.changed:
            self.waiting.append(job)
            self.changed.notify()

    def before(self, job):
        """How many jobs will be done before one that waits; 0 for one that runs."""
        with self.changed:
            return self.waiting.index(job) + len(self.running) if job in self.waiting else 0

    def cancel(self, job):
        """Take a job out, or end it; when this returns its process is no more."""
        with self.changed:
            waits = job in self.waiting
            if waits:
                self.waiting.remove(job)
            job.cancelled = True
        if waits:
            job.ended("")
            return
        job.stop()
        with self.changed:
            self.changed.wait_for(lambda: job not in self.running, PATIENCE + 2)

    def close(self):
        """End all."""
        with self.changed:
            self.closed = True
            jobs = [*self.waiting, *self.running]
            self.changed.notify_all()
        for job in jobs:
            self.cancel(job)

    def _serve(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.closed)
                if self.closed:
                    return
                job = self.waiting.popleft()
                self.running.add(job)
            try:
                sentence = job.run()
            except Exception as error:  # the line goes on whatever one job has met
                sentence = f"the work stopped: {error}"
            try:
                job.ended(sentence)
            finally:
                with self.changed:
                    self.running.discard(job)
                    self.changed.notify_all()
