"""Stacks fused by the workers of a Dask cluster, on one machine or many.

A worker that dies takes no stack with it: Dask gives it to another one. A stack whose fusing raises
something that is not of its files, such as a full memory or lost storage, is tried again.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from stackmff.errors import StackError, what_happened

if TYPE_CHECKING:
    from stackmff.fusion.batch import BatchJob
    from stackmff.fusion.engines import Engine
    from stackmff.fusion.options import EngineOptions

RETRIES = 2  # of a stack whose fusing failed for another reason than its files
LOCAL = "local:"  # and the number of workers on this machine
NEEDS = "--dask needs the package distributed: pip install 'stackmff[dask]', or remove --dask"

Outcome = tuple[int, str | None]  # the number of a job, and what went wrong, None if it is done


class Cluster(Protocol):
    """What `fuse_on` gives the work to."""

    def outcomes(
        self, work: Callable[["BatchJob"], str | None], jobs: Sequence["BatchJob"]
    ) -> Iterator[tuple[int, str | BaseException | None]]:
        """Call `work` for each job, yielding its number and what came of it, as they come."""

    def close(self) -> None:
        """End what was started here."""


class DaskCluster:
    """The workers of a scheduler, or of this machine.

    Args:
        address: of a scheduler, such as "tcp://host:8786"; or "local:K" for K workers here.
    Raises:
        StackError: the package is not installed, or no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise StackError(NEEDS) from error
        self.distributed, self.local = distributed, None
        try:
            if address.startswith(LOCAL):
                self.local = distributed.LocalCluster(
                    n_workers=int(address.removeprefix(LOCAL)),
                    threads_per_worker=1,
                    dashboard_address=None,
                )
            self.client = distributed.Client(self.local or address, timeout=60)
        except BaseException as error:
            if self.local is not None:
                self.local.close()
            if not isinstance(error, OSError):  # a TimeoutError is one
                raise
            raise StackError(
                f"--dask {address}: no scheduler answers there ({what_happened(error)}): start one "
                "with dask scheduler, and workers with dask worker"
            ) from error

    def outcomes(
        self, work: Callable[["BatchJob"], str | None], jobs: Sequence["BatchJob"]
    ) -> Iterator[tuple[int, str | BaseException | None]]:
        """See Cluster. A stack is lost only with the fourth worker that dies on it."""
        numbers = {
            self.client.submit(work, job, pure=False): number for number, job in enumerate(jobs)
        }
        for future in self.distributed.as_completed(list(numbers)):
            wrong = future.exception()
            yield numbers.pop(future), future.result() if wrong is None else wrong

    def close(self) -> None:
        """See Cluster."""
        self.client.close()
        if self.local is not None:
            self.local.close()


def address_of(word: str) -> str:
    """An argparse type: local:K, or the address of a scheduler."""
    count = word.removeprefix(LOCAL)
    if word.startswith(LOCAL):
        if not count.isdecimal() or int(count) < 1:
            raise argparse.ArgumentTypeError(f"{word!r} is not local:K with K from 1")
    elif "://" not in word:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not an address: give local:K, or one such as tcp://host:8786"
        )
    return word


@lru_cache(maxsize=1)
def engine_of(options: "EngineOptions") -> "Engine":
    """The engine of this worker, which stays from stack to stack."""
    from stackmff.fusion.pipeline import make_engine

    return make_engine(options)


def fuse_job(job: "BatchJob") -> str | None:
    """Fuse a stack in a worker, if it is not done.

    Returns:
        None, or why its files cannot be fused. Whatever else is wrong is raised.
    """
    engine = engine_of(job.options.fuse.engine)
    try:
        if (work := job.read()) is not None:
            job.fuse(engine, *work)
    except StackError as error:
        return what_happened(error)
    return None


def fuse_on(
    cluster: Cluster, jobs: Sequence["BatchJob"], retries: int = RETRIES
) -> Iterator[Outcome]:
    """Fuse stacks on a cluster, those that failed for another reason than their files once more.

    Args:
        cluster: of workers that see the same files as this process.
        jobs: what is to be fused.
        retries: how often a stack is tried again.
    Yields:
        The number of each job and what is wrong with it, as they are done.
    """
    left = list(range(len(jobs)))
    for attempt in range(retries + 1):
        again = []
        for place, found in cluster.outcomes(fuse_job, [jobs[number] for number in left]):
            number = left[place]
            if isinstance(found, BaseException) and attempt < retries:
                again.append(number)
            elif isinstance(found, BaseException):
                yield number, f"{what_happened(found)} (tried {attempt + 1} times)"
            else:
                yield number, found
        left = sorted(again)
        if not left:
            return
