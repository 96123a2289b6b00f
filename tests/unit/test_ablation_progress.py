"""What the bar over runs says."""

import pathlib

import pytest

from vilbert_jax.ablation.progress import RunsBar, progress
from vilbert_jax.ablation.runs import Run

HERE = pathlib.Path("x")


def run(name, *kind):
    return Run(name, (), HERE, HERE, (), kind)


RUNS = [run("a", "long", "deep"), run("b", "long", "flat"), run("c", "short"), run("d", "short")]
TOOK = {("long", "deep"): 300.0, ("long",): 200.0, ("short",): 10.0, (): 100.0}


def test_a_run_counts_as_much_as_its_kind_took():
    # a 300, b as other long ones 200, c and d 10 each
    assert progress(RUNS, {"c", "d"}, {}, TOOK, 2) == (pytest.approx(20 / 520), 300.0)  # the longest alone takes 300
    assert progress(RUNS, {"a"}, {"b": 50.0}, TOOK, 2) == (pytest.approx(350 / 520), 150.0)
    assert progress(RUNS, {"a", "b"}, {"c": 5.0}, TOOK, 1) == (pytest.approx(505 / 520), 15.0)
    assert progress(RUNS, {"a", "b", "c", "d"}, {}, TOOK, 1) == (1.0, 0.0)


def test_a_run_that_takes_too_long_is_never_taken_for_done():
    share, left = progress(RUNS[:1], set(), {"a": 9000.0}, TOOK, 1)
    assert share < 1
    assert left > 0


def test_while_nothing_is_done_all_count_alike_and_no_time_is_promised():
    assert progress(RUNS, set(), {"a": 100.0}, {}, 2) == (0.0, None)
    assert progress(RUNS, {"a"}, {}, {}, 2) == (0.25, None)  # it failed
    assert progress([run("new", "other kind")], set(), {}, TOOK, 1) == (0.0, 100.0)  # as runs took on average


def test_the_bar_names_what_is_running(capsys):
    with RunsBar(RUNS, parallel=1, title="grid", seconds_by_kind=lambda: TOOK) as bar:
        bar.show({"a"}, {"b": 20.0}, now=True)
        bar.show({"a", "b"}, {"c": 1.0})  # too soon after the last one
        assert "grid: 1 of 4 runs; 3 min left; b" in capsys.readouterr().err
        bar.show({"a"}, {"b": 20.0}, note="stopping", now=True)
        assert "1 of 4 runs; stopping; b" in capsys.readouterr().err
        bar.show({"a", "b", "c", "d"}, {}, now=True)
    assert "100%" in (said := capsys.readouterr().err)
    assert "4 of 4 runs" in said
    assert "left" not in said
