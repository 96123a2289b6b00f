"""Weak scaling on paper: numbers worked out by hand."""

import pytest

from vilbert_jax.planning.collectives import Traffic
from vilbert_jax.planning.scaling import Level, Machine, collective_seconds, predict

FLAT = Machine("flat", 100.0, 10.0, (Level(1000, 50.0, 0.0),))
NODES = Machine("nodes", 100.0, 10.0, (Level(4, 100.0, 0.01), Level(1000, 10.0, 0.1)))
TORUS = Machine("torus", 100.0, 10.0, (Level(1000, 50.0, 0.5, axes=3),))


def traffic(kind="all-reduce", payload=400, number=1):
    return Traffic(kind, ("data",), 8, number, payload, 0.0)


@pytest.mark.parametrize(
    ("kind", "seconds"), [("all-reduce", 14.0), ("all-gather", 7.0), ("reduce-scatter", 7.0), ("all-to-all", 7.0)]
)
def test_a_ring_of_eight_sends_seven_eighths(kind, seconds):
    assert collective_seconds(FLAT, 8, traffic(kind)) == pytest.approx(seconds)


def test_between_nodes_travels_what_the_node_has_split():
    """2 x 3/4 x 400 / 100 within a node and 2 x 3 messages; 2 x 1/2 x 100 / 10 between two and 2 messages."""
    assert collective_seconds(NODES, 8, traffic()) == pytest.approx(6 + 0.06 + 10 + 0.2)


def test_within_one_node_nothing_leaves_it():
    assert collective_seconds(NODES, 4, traffic()) == pytest.approx(6 + 0.06)


def test_one_device_sends_nothing():
    assert collective_seconds(NODES, 1, traffic()) == 0


def test_a_torus_has_short_ways():
    """3 axes of 4 devices: 9 hops each way in place of 63."""
    without = Machine("torus", 100.0, 10.0, (Level(1000, 50.0, 0.0, axes=3),))
    assert collective_seconds(TORUS, 64, traffic()) - collective_seconds(without, 64, traffic()) == pytest.approx(9.0)


def test_every_collective_waits_for_its_messages():
    once, often = (collective_seconds(NODES, 4, traffic(number=number)) for number in (1, 11))
    assert often - once == pytest.approx(10 * 0.06)


def test_efficiency_is_time_alone_over_time_together():
    """Products 9 s (at half the peak), update 1 s, 14 s of sending, 6 s of which hide behind the backward pass."""
    found = predict(FLAT, 8, [traffic()], flops=450.0, update_bytes=10.0, reached=0.5)
    assert (found.compute, found.update, found.communication) == pytest.approx((9, 1, 14))
    assert found.exposed == pytest.approx(10 / 24)
    assert found.overlapped == pytest.approx(10 / 18)


def test_what_hides_whole_costs_nothing():
    assert predict(FLAT, 8, [traffic(payload=4)], flops=450.0, update_bytes=10.0, reached=0.5).overlapped == 1
