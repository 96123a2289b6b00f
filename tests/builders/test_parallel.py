"""The ordered map over processes."""

import os

import pytest

from tfds_builders.scenes import parallel


def threads_and_square(number):
    return os.getpid(), os.environ.get("OPENBLAS_NUM_THREADS"), number * number


def fail_at_seventy(number):
    if number == 70:
        raise ZeroDivisionError("seventy")
    return number


def test_order_is_kept_and_work_is_spread(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = list(parallel.map_ordered(threads_and_square, range(400), 2))
    assert [square for _, _, square in found] == [number * number for number in range(400)]
    assert {threads for _, threads, _ in found} == {"1"}
    assert os.getpid() not in {process for process, _, _ in found}
    assert os.environ["OPENBLAS_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ


def test_few_items_and_one_process_need_no_workers():
    for items, processes in ((range(5), 2), (range(100), 1)):
        found = list(parallel.map_ordered(threads_and_square, items, processes))
        assert {process for process, _, _ in found} == {os.getpid()}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_the_work_reaches_the_caller(processes):
    with pytest.raises(ZeroDivisionError, match="seventy"):
        list(parallel.map_ordered(fail_at_seventy, range(100), processes))
