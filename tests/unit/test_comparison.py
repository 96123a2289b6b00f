"""Runs side by side, and the table of their results."""

import json
import os

import pytest

from vilbert_jax.errors import InputError
from vilbert_jax.evaluation.comparison import Cell, Run, markdown_table, run_all

WRITE = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + '.' if p.exists() else '.')"


def a_run(folder, name, *commands):
    """A run that is done when ``<name>.done`` is there."""
    return Run(name, commands, folder / name / "log.txt", folder / f"{name}.done")


def writes(folder, name):
    return ("-c", WRITE, str(folder / f"{name}.done"))


def test_commands_run_in_order_and_what_they_print_is_kept(tmp_path):
    steps = [("-c", f"print('step {k}')") for k in range(2)]
    run_all([a_run(tmp_path, "a", *steps, writes(tmp_path, "a"))], parallel=1, title="", folder=tmp_path)
    lines = (tmp_path / "a" / "log.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("$")] == ["step 0", "step 1"]
    assert sum(line.startswith("$ python") for line in lines) == 3


def test_what_is_done_is_not_done_again(tmp_path):
    runs = [a_run(tmp_path, name, writes(tmp_path, name)) for name in ("a", "b")]
    run_all(runs[:1], parallel=2, title="", folder=tmp_path)
    run_all(runs, parallel=2, title="", folder=tmp_path)
    assert (tmp_path / "a.done").read_text() == "."
    assert (tmp_path / "b.done").read_text() == "."


def test_a_failure_names_its_log_and_the_others_are_finished(tmp_path):
    failing = a_run(tmp_path, "bad", ("-c", "raise SystemExit('broken')"), writes(tmp_path, "bad"))
    runs = [failing, *(a_run(tmp_path, name, writes(tmp_path, name)) for name in "abc")]
    with pytest.raises(InputError, match=r"1 of 4 runs failed, first bad: see .*bad/log\.txt"):
        run_all(runs, parallel=2, title="", folder=tmp_path)
    assert all((tmp_path / f"{name}.done").exists() for name in "abc")
    assert not (tmp_path / "bad.done").exists()  # the second command did not run
    assert "broken" in (tmp_path / "bad" / "log.txt").read_text()


def test_commands_that_leave_nothing_behind_have_failed(tmp_path):
    with pytest.raises(InputError, match="1 of 1 runs failed"):
        run_all([a_run(tmp_path, "a", ("-c", "pass"))], parallel=1, title="", folder=tmp_path)


def test_what_was_stopped_half_way_is_not_scored(tmp_path):
    stopped = a_run(tmp_path, "a", ("-c", "pass"), writes(tmp_path, "a"))._replace(leaves=(tmp_path / "trained",))
    with pytest.raises(InputError, match="1 of 1 runs failed"):
        run_all([stopped], parallel=1, title="", folder=tmp_path)
    assert not (tmp_path / "a.done").exists()
    (tmp_path / "trained").touch()
    run_all([stopped], parallel=1, title="", folder=tmp_path)
    assert (tmp_path / "a.done").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to cores here")
def test_runs_share_the_cores_between_them(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    code = "import os, pathlib, sys, time; time.sleep(0.3)\n"
    code += "pathlib.Path(sys.argv[1]).write_text(repr(os.sched_getaffinity(0)))"
    runs = [a_run(tmp_path, name, ("-c", code, str(tmp_path / f"{name}.done"))) for name in "ab"]
    run_all(runs, parallel=2, title="", folder=tmp_path)
    first, second = (eval((tmp_path / f"{name}.done").read_text()) for name in "ab")
    assert first | second == set(cores)
    assert not first & second or len(cores) == 1


def cell(folder, row, column, seed, **metrics):
    path = folder / f"{row}{column}{seed}.json"
    path.write_text(json.dumps({"metrics": metrics}))
    return Cell(row, column, path, "score")


def test_a_table_has_means_with_their_range(tmp_path):
    cells = [
        cell(tmp_path, "one", "x", 0, score=50.0), cell(tmp_path, "one", "y", 0, score=1.0),
        cell(tmp_path, "one", "x", 1, score=61.0), cell(tmp_path, "two", "y", 0, score=99.96, other=3),
    ]  # fmt: skip
    lines = markdown_table(cells, corner="what").splitlines()
    found = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert found[0] == ["what", "x", "y"]
    assert all(part.strip("-") in ("", ":") for part in found[1])
    assert found[2] == ["one", "55.5 (50.0 to 61.0)", "1.0"]
    assert found[3] == ["two", "", "100.0"]
    assert len({len(line) for line in lines}) == 1
