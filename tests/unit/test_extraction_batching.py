"""Order, groups and bounds of lazy work."""

import threading
import time

import numpy as np
import pytest

from vilbert_jax.extraction.batching import ahead, in_groups, in_order


def test_results_of_threads_come_in_order():
    def slow(number):
        time.sleep(0.002 * (number % 3 == 0))
        return number * 10

    assert list(ahead(slow, range(50), num_threads=4, num_ahead=8)) == [10 * number for number in range(50)]


def test_no_more_than_so_many_are_begun_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = ahead(str, items(), num_threads=2, num_ahead=5)
    assert next(results) == "0"
    assert len(taken) == 5
    assert next(results) == "1"
    assert len(taken) == 6
    results.close()


def test_an_exception_comes_in_its_place_and_ends_the_threads():
    def fails(number):
        if number == 3:
            raise ValueError("three")
        return number

    results = ahead(fails, range(10), num_threads=2, num_ahead=6)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert not any(thread.name.startswith("reading") for thread in threading.enumerate())


def test_threads_end_when_nobody_asks_any_more():
    results = ahead(str, range(10), num_threads=3, num_ahead=6)
    next(results)
    results.close()
    assert not any(thread.name.startswith("reading") for thread in threading.enumerate())


def groups_of(kinds, **options):
    return [[number for number, _ in group] for group in in_groups(kinds, lambda kind: kind, **options)]


def test_groups_are_of_one_kind_and_full():
    assert groups_of("ababab", size=2, window=9) == [[0, 2], [1, 3], [4], [5]]


def test_a_rare_kind_waits_no_longer_than_the_window():
    assert groups_of("b" + "a" * 9, size=3, window=4) == [[1, 2, 3], [0], [4, 5, 6], [7, 8, 9]]
    assert groups_of("b" + "a" * 9, size=3, window=99)[-1] == [0]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_groups_have_everything_once_and_results_find_their_order(size):
    kinds = np.random.default_rng(size).choice(list("abcd"), 200, p=[0.6, 0.3, 0.09, 0.01]).tolist()
    groups = list(in_groups(enumerate(kinds), lambda item: item[1], size=size, window=20))
    assert all(len({kind for _, (_, kind) in group}) == 1 and len(group) <= size for group in groups)
    results = [(number, item) for group in groups for number, item in group]
    assert [number for number, _ in in_order(results)] == list(range(200))
    newest = 0
    for group in groups:  # nothing is held back for longer than the window and one batch of the others
        newest = max(newest, group[-1][0])
        assert newest - group[0][0] <= 20 + size


def test_groups_are_lazy():
    asked = []

    def kinds():
        for kind in "aabb":
            asked.append(kind)
            yield kind

    first = next(in_groups(kinds(), lambda kind: kind, size=2, window=9))
    assert (len(first), asked) == (2, ["a", "a"])


def test_results_are_passed_on_as_soon_as_it_is_their_turn():
    order = in_order(iter([(1, "b"), (0, "a"), (2, "c")]))
    assert list(order) == ["a", "b", "c"]
    with pytest.raises(AssertionError, match="without result 0"):
        list(in_order([(1, "b")]))
