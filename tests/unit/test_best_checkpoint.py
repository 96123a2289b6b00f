"""The best parameters of a run: which they are, that a kill never loses them, and when patience ends."""

import dataclasses
import functools
import logging
import math
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_training as toy

from vilbert_jax.checkpoints.folder import find_checkpoint, find_damage, read_contents, restore_params
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.sharding import MeshConfig, make_mesh, state_shardings
from vilbert_jax.training.best import BestCheckpoint, Selection
from vilbert_jax.training.evaluation import MeanEvaluation
from vilbert_jax.training.logging import MetricLogger, NonFiniteError
from vilbert_jax.training.optimizer import OptimizerConfig

SELECTION = Selection("validation", "score")
CONFIG = dataclasses.replace(toy.CONFIG, total_steps=14, eval_every=2, checkpoint_every=5)
SCORES = {2: -0.75, 4: 0.5, 6: 0.25, 8: 0.5, 10: 0.125, 12: 0.75, 14: 0.25}  # by step; the best is 12's
COUNTING = OptimizerConfig(  # each update adds 1 to the bias that ``count`` pulls at
    learning_rate=1.0, warmup_fraction=0.0, schedule="constant", weight_decay=0.0, clip="none"
)


def count(params, batch, key):
    """A loss that only makes ``alignment_head/bias`` the number of completed steps."""
    del key
    return {"fit_loss": WeightedSum(-params["alignment_head"]["bias"].sum() * 16, batch["example_mask"].sum() * 1.0)}


def score(params, batch, scores):
    """A score of the completed steps, and so a pure function of the parameters."""
    table = jnp.array([scores.get(step, math.nan) for step in range(max(scores) + 1)])
    value = table[jnp.round(params["alignment_head"]["bias"][0]).astype(int)]
    return {"score": WeightedSum(value * batch["example_mask"].sum(), batch["example_mask"].sum() * 1.0)}


def run(workdir, config=CONFIG, scores=SCORES, **changes):
    evaluation = MeanEvaluation(functools.partial(score, scores=scores), toy.Examples())
    arguments = {
        "loss_fn": count,
        "loss_weights": {"fit_loss": 1.0},
        "optimizer": COUNTING,
        "evaluations": {"validation": evaluation},
        "selection": SELECTION,
        "mesh": MeshConfig(data=4, fsdp=2),
        "tokenizer_json": "{}",
    }
    return toy.run(workdir, config, **(arguments | changes))


def kept(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / "best").iterdir())


def fail(step):
    raise AssertionError("trained again")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def test_a_run_keeps_the_parameters_with_the_highest_value(whole):
    workdir, result = whole
    assert not result.stopped_early
    assert kept(workdir) == ["12"]
    best = workdir / "best" / "12"
    assert (best / "tokenizer.json").read_text() == "{}"
    assert find_damage(best) is None
    contents = read_contents(best)
    assert contents.provenance == {
        "selected": {"evaluation": "validation", "metric": "score", "value": 0.75, "step": 12}
    }
    assert contents.identity == read_contents(workdir / "checkpoints" / "14").identity
    assert all(name.startswith("params/") for name in contents.shapes)
    abstract = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), result.state.params)
    np.testing.assert_allclose(restore_params(best, abstract)["alignment_head"]["bias"], 12, rtol=1e-5)


def test_a_run_without_selection_keeps_none(tmp_path):
    toy.run(tmp_path, dataclasses.replace(toy.CONFIG, total_steps=4))
    assert not (tmp_path / "best").exists()


def test_a_run_is_found_by_its_best_and_its_checkpoints_by_the_newest(whole):
    workdir = whole[0]
    assert find_checkpoint(workdir) == workdir / "best" / "12"
    assert find_checkpoint(workdir / "best") == workdir / "best" / "12"
    assert find_checkpoint(workdir / "checkpoints") == workdir / "checkpoints" / "14"
    assert find_checkpoint(workdir / "checkpoints" / "10") == workdir / "checkpoints" / "10"


def test_a_run_with_a_damaged_best_is_not_silently_another(whole, tmp_path):
    workdir = Path(shutil.copytree(whole[0], tmp_path / "run"))
    (workdir / "best" / "12" / "tokenizer.json").write_text("{ }")
    with pytest.raises(InputError, match=r"no usable checkpoint in .*best:\n.*12.*tokenizer.json has \d+ bytes"):
        find_checkpoint(workdir)
    shutil.rmtree(workdir / "best" / "12" / "state")
    with pytest.raises(InputError, match=r"no usable checkpoint in .*best:\n.*12.*state.* is missing"):
        find_checkpoint(workdir)
    shutil.rmtree(workdir / "best")
    assert find_checkpoint(workdir) == workdir / "checkpoints" / "14"


def test_a_run_that_lost_the_arrays_of_all_its_checkpoints_starts_from_nothing_else(whole, tmp_path):
    workdir = Path(shutil.copytree(whole[0], tmp_path / "run"))
    for state in workdir.glob("checkpoints/*/state"):
        shutil.rmtree(state)
    with pytest.raises(InputError, match=r"no usable checkpoint in .*checkpoints.*state.* is missing"):
        run(workdir)


# --- patience

PATIENT = dataclasses.replace(CONFIG, patience=2)  # 4 is the best for two evaluations: the end is step 8


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stopped")
    return workdir, run(workdir, PATIENT)


def test_patience_ends_a_run_that_does_not_improve(stopped, capsys):
    workdir, result = stopped
    assert (result.stopped_early, result.interrupted, int(result.state.step)) == (True, False, 8)
    assert max(row["step"] for row in toy.logged(workdir)) == 8
    assert kept(workdir) == ["4"]
    assert find_checkpoint(workdir / "checkpoints") == workdir / "checkpoints" / "8"
    again = run(workdir, PATIENT, dataset=toy.Batches(before=fail))
    assert (again.stopped_early, int(again.state.step)) == (True, 8)
    line = "stopped early at step 8 with patience=2: the best validation/score is 0.5, of step 4."
    assert capsys.readouterr().out.splitlines().count(line) == 1


def test_more_patience_goes_on_where_the_run_stopped(stopped, whole, tmp_path):
    workdir = Path(shutil.copytree(stopped[0], tmp_path / "run"))
    result = run(workdir, dataclasses.replace(CONFIG, patience=4))
    assert not result.stopped_early  # 12 improves
    assert toy.logged(workdir) == toy.logged(whole[0])
    assert kept(workdir) == ["12"]


def test_the_last_step_is_no_early_stop(tmp_path):
    result = run(tmp_path, dataclasses.replace(PATIENT, total_steps=8))
    assert (result.stopped_early, int(result.state.step)) == (False, 8)


@pytest.mark.parametrize("at", [3, 6, 7, 8])
def test_an_interrupted_run_stops_at_the_same_step(stopped, tmp_path, at):
    """At 6 and 8 the evaluation is made up for; at 8 it is the one that ends the run."""

    def send(step):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    first = run(tmp_path, PATIENT, dataset=toy.Batches(before=send))
    assert (first.interrupted, first.stopped_early) == (True, False)
    result = run(tmp_path, PATIENT)
    assert (result.stopped_early, int(result.state.step)) == (True, 8)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (stopped[0] / "metrics.jsonl").read_bytes()
    assert kept(tmp_path) == ["4"]


class Killed(BaseException):
    """In place of SIGKILL: nothing catches it."""


@pytest.mark.parametrize("at", [4, 6, 12])
def test_a_kill_before_the_evaluation_is_logged_repeats_it_and_no_more(whole, tmp_path, monkeypatch, at):
    write = MetricLogger.write

    def killed(self, step, metrics):
        if step == at and "eval/validation/score" in metrics:
            raise Killed
        write(self, step, metrics)

    monkeypatch.setattr(MetricLogger, "write", killed)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    best = tmp_path / "best" / ("12" if at == 12 else "4")
    assert kept(tmp_path) == [best.name]
    written = (best / "contents.json").stat()
    run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()
    assert kept(tmp_path) == ["12"]
    if at == 12:  # not strictly better than itself
        assert (best / "contents.json").stat().st_mtime_ns == written.st_mtime_ns


def test_an_evaluation_that_is_not_finite_changes_nothing(tmp_path):
    with pytest.raises(NonFiniteError, match="eval/validation/score is nan at step 6"):
        run(tmp_path, scores={2: 0.25, 4: 0.5, 8: 1.0})
    assert kept(tmp_path) == ["4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": None, "config": PATIENT}, "patience is 2, but the run selects by no metric"),
        ({"selection": Selection("test", "score")}, "selects by test/score, but its evaluations are validation"),
        ({"selection": Selection("validation", "skore")}, "selects by validation/skore, but validation measures score"),
    ],
)
def test_a_selection_that_does_not_fit_is_an_error(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, **changes)


# --- the folder by itself


def make_params(value: float):
    params = jax.tree.map(lambda x: jnp.full(x.shape, float(value)), toy.init_params(jax.random.key(0)))
    return jax.device_put(params, state_shardings(params, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))))


def open_best(directory: Path, selection: Selection = SELECTION, identity=toy.IDENTITY) -> BestCheckpoint:
    return BestCheckpoint(directory, selection, identity=identity, abstract_params=make_params(0))


def offer(best: BestCheckpoint, step: int, value: float) -> None:
    best.offer(step, make_params(step + value), {"score": value, "other": 9.0}, {"init_from": "a"})


def held(directory: Path) -> float:
    """The step + value that all kept parameters are; fails if they cannot be read."""
    path = find_checkpoint(directory)
    assert path is not None
    params = restore_params(path, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), make_params(0)))
    (value,) = {float(v) for leaf in jax.tree.leaves(params) for v in np.unique(leaf)}
    selected = read_contents(path).provenance["selected"]
    assert value == selected["step"] + selected["value"]
    return value


@pytest.fixture
def two_offers(tmp_path) -> Path:
    best = open_best(tmp_path / "best")
    offer(best, 2, 0.25)
    offer(best, 4, 0.5)
    return tmp_path / "best"


def test_only_what_is_strictly_better_is_kept(two_offers):
    best = open_best(two_offers)
    assert (best.step, best.value) == (4, 0.5)
    offer(best, 6, 0.5)
    offer(best, 8, 0.25)
    assert (best.step, best.value, held(two_offers)) == (4, 0.5, 4.5)
    offer(best, 10, 0.75)
    assert (best.step, best.value, held(two_offers)) == (10, 0.75, 10.75)
    assert [path.name for path in two_offers.iterdir()] == ["10"]
    assert read_contents(two_offers / "10").provenance["init_from"] == "a"


def test_a_better_one_of_an_earlier_step_is_kept(two_offers):
    """After going back to an older checkpoint with other settings."""
    offer(open_best(two_offers), 2, 0.75)
    assert [path.name for path in two_offers.iterdir()] == ["2"]
    assert held(two_offers) == 2.75


@pytest.mark.parametrize("moment", ["half written", "disk full", "old one not removed"])
@pytest.mark.parametrize("step", [4, 6])
def test_at_any_moment_one_of_them_is_whole(two_offers, monkeypatch, moment, step):
    """Step 4 takes the place of another step 4."""

    def die(*_, **__):
        raise Killed

    def disk_full(*_, **__):
        raise OSError("no space left on device")

    best = open_best(two_offers)
    if moment == "disk full":
        monkeypatch.setattr("vilbert_jax.checkpoints.saving.write_contents", disk_full)
        with pytest.raises(OSError, match="no space left"):
            offer(best, step, 0.75)
    else:
        where = "saving.write_contents" if moment == "half written" else "saving.agreed"
        monkeypatch.setattr(f"vilbert_jax.checkpoints.{where}", die)
        if moment == "old one not removed":
            calls = iter([lambda _: 0, die])  # once before the folder is written, once after it was moved into place
            monkeypatch.setattr("vilbert_jax.checkpoints.saving.agreed", lambda value: next(calls)(value))
        with pytest.raises(Killed):
            offer(best, step, 0.75)
    monkeypatch.undo()
    arrived = moment == "old one not removed"
    assert len([path for path in two_offers.iterdir() if path.name.isdigit()]) == 1 + arrived
    assert held(two_offers) in ([4.5, step + 0.75] if arrived else [4.5])
    offer(open_best(two_offers), step, 0.75)  # the evaluation, repeated
    assert [int(path.name) for path in two_offers.iterdir()] == [step]
    assert held(two_offers) == step + 0.75


def test_what_a_kill_left_is_cleared_away(two_offers):
    shutil.copytree(two_offers / "4", two_offers / "2")
    shutil.copytree(two_offers / "4", two_offers / ".6.part" / "6")
    assert open_best(two_offers).step == 4
    assert [path.name for path in two_offers.iterdir()] == ["4"]


def test_a_damaged_one_is_set_aside(two_offers, caplog):
    (two_offers / "4" / "contents.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        best = open_best(two_offers)
    assert "set aside as 4.corrupt" in caplog.text
    assert (best.step, best.num_evaluations_since(100, 2)) == (None, 0)
    offer(best, 6, -5.0)
    assert sorted(path.name for path in two_offers.iterdir()) == ["4.corrupt", "6"]
    assert held(two_offers) == 1.0


def test_another_metric_or_model_is_refused(two_offers):
    with pytest.raises(InputError, match="selected by validation/score, this run selects by validation/other"):
        open_best(two_offers, Selection("validation", "other"))
    with pytest.raises(InputError, match='vocabulary: checkpoint "abc", this run "abd"'):
        open_best(two_offers, identity=toy.IDENTITY | {"vocabulary": "abd"})
    assert held(two_offers) == 4.5


def test_evaluations_are_counted_by_steps(two_offers):
    best = open_best(two_offers)
    assert [best.num_evaluations_since(step, 2) for step in (2, 4, 6, 7, 8)] == [0, 0, 1, 1, 2]
    offer(best, 7, 1.0)  # the last step of a run that goes on later
    assert [best.num_evaluations_since(step, 2) for step in (7, 8, 10)] == [0, 1, 2]
