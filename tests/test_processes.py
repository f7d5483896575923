"""processes.py: work ahead of what is asked for, in order, within bounds."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stackmff.processes import futures_ahead, in_order


@pytest.mark.parametrize("jobs", [1, 2, 7, 100])
def test_results_come_in_order(jobs):
    assert list(in_order(lambda x: -x, range(20), jobs)) == [(k, -k) for k in range(20)]
    assert list(in_order(abs, [], jobs)) == []


@pytest.mark.parametrize("own", [True, False])
def test_memory_does_not_grow_with_the_number_of_items(own):
    started = []
    with ThreadPoolExecutor(1) as pool:
        run = in_order(lambda x: started.append(x) or -x, range(50), 4, None if own else pool)
        for item, result in run:
            assert result == -item and len(started) <= item + 6


def test_a_failure_comes_in_its_place_and_the_rest_is_not_begun():
    started = []

    def halve(item):
        started.append(item)
        return 12 // (item - 3)

    got = []
    with pytest.raises(ZeroDivisionError):
        for item, _ in in_order(halve, range(100), 2):
            got.append(item)
    assert got == [0, 1, 2] and len(started) <= 7
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_future_may_fail_and_the_rest_goes_on():
    said = [
        item if future.exception() else future.result()
        for item, future in futures_ahead(lambda x: 1 // x, range(3), 1)
    ]
    assert said == [0, 1, 0]
