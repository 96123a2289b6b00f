"""What a folder of runs accepts when a grid is started again: what is done, what has changed, what is built on what."""

import json
import pathlib
import shutil

import pytest

from vilbert_jax.ablation.records import Records
from vilbert_jax.ablation.runs import Run, unfinished
from vilbert_jax.errors import InputError

BASE, TUNED, SCORED = "seed0/two/pretraining", "seed0/two/vqa/training", "seed0/two/vqa/evaluation"
OTHER = "seed0/two/zero/evaluation"


def a_run(folder, name, *needs, flags=(), recipe=None):
    start = [f"--from={folder / need}" for need in needs]
    command = ("main.py", *flags, *start, f"--workdir={folder / name}")
    return Run(
        name, command, folder / name, folder / name / "result", needs, recipe=recipe or {"steps": 5, "rate": 0.1}
    )


def chain(folder):
    return [a_run(folder, BASE), a_run(folder, TUNED, BASE), a_run(folder, SCORED, TUNED)]


def records_of(folder, runs, **settings):
    folder.mkdir(exist_ok=True)
    return Records(folder, {run.name: run for run in runs}, **settings)


def do(folder, *runs, plan=None, status="done"):
    """As the runner would: the results lie there and the records say how it ended."""
    records = records_of(folder, plan or runs, machine="a machine")
    for run in runs:
        attempt = records.begin(run, 2, 1)
        (run.folder / "checkpoints" / "3").mkdir(parents=True, exist_ok=True)
        run.leaves.touch()
        records.end(attempt, status)


def refused(folder, *runs, wanted=None):
    with pytest.raises(InputError) as error:
        records_of(folder, runs).require_unchanged(runs if wanted is None else wanted)
    return str(error.value)


def accepted(folder, *runs, wanted=None):
    """What is done."""
    records = records_of(folder, runs)
    records.require_unchanged(runs if wanted is None else wanted)
    return [run.name for run in runs if run.name in records.results(runs)]


def test_a_folder_whose_name_begins_alike_is_another_one(tmp_path):
    grid = tmp_path / "grid"
    run = a_run(grid, BASE, flags=(f"--config.init_from={tmp_path / 'grid2' / 'run'}", f"--from={grid}"))
    do(grid, run)
    command = json.loads((run.folder / "run.json").read_text())["command"]
    assert command[1:3] == [f"--config.init_from={tmp_path / 'grid2' / 'run'}", "--from=WORKDIR"]
    assert command[-1] == f"--workdir=WORKDIR/{BASE}"


def test_other_commands_for_what_is_there_are_refused(tmp_path):
    base, tuned, scored = chain(tmp_path)
    do(tmp_path, base, tuned, scored)
    text = refused(tmp_path, a_run(tmp_path, BASE, flags=("--config.total_steps=7",)), tuned, scored)
    assert text.startswith(f"1 runs of {tmp_path} were begun with other commands or recipes")
    assert f"{tmp_path / BASE}: had nothing, now --config.total_steps=7" in text
    assert "another --workdir, or delete these folders" in text
    # what was built on it is of another model now
    _, _, stale = text.partition("2 runs of ")
    assert str(tmp_path / TUNED) in stale
    assert str(tmp_path / SCORED) in stale
    swapped = base._replace(command=(base.command[1], base.command[0], *base.command[2:]))
    assert "its arguments in another order" in refused(tmp_path, swapped)
    assert accepted(tmp_path, base, tuned, scored, a_run(tmp_path, OTHER, BASE)) == [BASE, TUNED, SCORED]


def test_an_edited_recipe_is_refused_like_a_changed_flag(tmp_path):
    base, tuned, scored = chain(tmp_path)
    do(tmp_path, base, tuned, scored)
    edited = tuned._replace(recipe={"steps": 6, "rate": 0.1, "heads": ["a"]})
    text = refused(tmp_path, base, edited, scored)
    assert f'{tmp_path / TUNED}: heads was absent, now ["a"], steps was 5, now 6\n' in text
    assert str(tmp_path / SCORED) in text
    assert str(tmp_path / BASE) not in text


def test_many_changes_are_described_shortly(tmp_path):
    runs = [a_run(tmp_path, f"seed{k}/two/pretraining") for k in range(8)]
    do(tmp_path, *runs)
    text = refused(tmp_path, *(run._replace(recipe={f"key{k}": k for k in range(9)}) for run in runs))
    assert "8 runs of" in text
    assert text.count("key0 was absent, now 0") == 5
    assert "and 6 more" in text  # of nine keys and two that went, five are shown
    assert "and 3 more" in text


def test_a_run_that_got_nowhere_may_change(tmp_path):
    """A typo is mended by mending it; a training that has a checkpoint would go on with what the old command made."""
    mended = a_run(tmp_path, BASE, flags=("--fine",))
    do(tmp_path, a_run(tmp_path, BASE), status="failed")
    assert "had nothing, now --fine" in refused(tmp_path, mended)
    shutil.rmtree(tmp_path / BASE / "checkpoints")
    assert accepted(tmp_path, mended) == []


def test_where_folders_and_data_lie_makes_no_other_run(tmp_path):
    flags = "--config.data_dir=/data/{}"
    do(tmp_path / "here", a_run(tmp_path / "here", BASE, flags=(flags.format("a"),)))
    (tmp_path / "here").rename(tmp_path / "there")
    assert accepted(tmp_path / "there", a_run(tmp_path / "there", BASE, flags=(flags.format("b"),))) == [BASE]


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "{", '{"done": true, "built_on": {}, "command": [], "recipe": {}}',
     '{"done": null, "built_on": {}, "command": "x", "recipe": {}}'],
)  # fmt: skip
def test_a_damaged_record_names_its_folder(tmp_path, content):
    do(tmp_path, a_run(tmp_path, BASE))
    (tmp_path / BASE / "run.json").write_text(content)
    assert f"damaged, or of another version: delete {tmp_path / BASE}" in refused(tmp_path, a_run(tmp_path, BASE))


def test_only_the_record_says_that_a_run_is_done(tmp_path):
    run = a_run(tmp_path, BASE)
    do(tmp_path, run, status="failed")
    assert run.leaves.is_file()
    assert accepted(tmp_path, run) == []
    do(tmp_path, run)
    assert accepted(tmp_path, run) == [BASE]
    run.leaves.unlink()
    assert accepted(tmp_path, run) == []


# --- what is built on what


def test_what_was_built_on_a_run_that_was_made_again_is_refused(tmp_path):
    plan = chain(tmp_path)
    do(tmp_path, *plan)
    shutil.rmtree(tmp_path / BASE)
    do(tmp_path, plan[0], plan=plan)
    text = refused(tmp_path, *plan)
    assert text.startswith(f"2 runs of {tmp_path} are built on others that changed, or were or would be made again:")
    assert f"  {tmp_path / TUNED}\n  {tmp_path / SCORED}\nDelete these folders too" in text
    for name in (TUNED, SCORED):
        shutil.rmtree(tmp_path / name)
    assert accepted(tmp_path, *plan) == [BASE]


def test_a_deleted_run_is_made_again_only_for_what_is_not_done(tmp_path):
    """Checkpoints take room; scores that are there do not need them."""
    plan = chain(tmp_path)
    do(tmp_path, *plan)
    for name in (BASE, TUNED):
        shutil.rmtree(tmp_path / name)
    assert accepted(tmp_path, *plan) == [SCORED]
    assert unfinished(plan, {SCORED: "done"}) == []
    # Now something else needs the pre-training, which would be another one than that of the score.
    other = a_run(tmp_path, OTHER, BASE)
    assert str(tmp_path / SCORED) in refused(tmp_path, *plan, other)
    assert accepted(tmp_path, *plan, other, wanted=plan) == [SCORED]
    shutil.rmtree(tmp_path / SCORED)
    assert accepted(tmp_path, *plan, other) == []
    assert [run.name for run in unfinished([*plan, other], {})] == [BASE, TUNED, SCORED, OTHER]


def test_what_a_half_done_training_started_from_must_be_there(tmp_path):
    plan = chain(tmp_path)[:2]
    do(tmp_path, plan[0])
    do(tmp_path, plan[1], plan=plan, status="stopped")
    assert accepted(tmp_path, *plan) == [BASE]
    shutil.rmtree(tmp_path / BASE)
    assert str(tmp_path / TUNED) in refused(tmp_path, *plan)


def test_finished_work_is_not_done_again_under_another_name(tmp_path):
    do(tmp_path, *chain(tmp_path))
    new = "seed0/new/pretraining"
    text = refused(tmp_path, a_run(tmp_path, new))
    assert f"{tmp_path / new} would do again what {tmp_path / BASE} has done" in text
    assert "put new ones behind those that they\nshare runs with" in text
    assert accepted(tmp_path, a_run(tmp_path, new, flags=("--other",))) == []


# --- what a report says without running


def test_failed_runs_are_known_without_running(tmp_path):
    runs = [*chain(tmp_path), a_run(tmp_path, OTHER, BASE), a_run(tmp_path, "seed0/one/pretraining")]
    do(tmp_path, runs[0])
    do(tmp_path, runs[1], plan=runs, status="failed")
    do(tmp_path, runs[3], plan=runs, status="killed")
    records = records_of(tmp_path, runs)
    assert records.outcomes(runs) == {BASE: "done", TUNED: "failed", SCORED: "skipped"}
    shutil.rmtree(tmp_path / TUNED)  # to have it run again
    assert records.outcomes(runs) == {BASE: "done"}


def test_an_attempt_says_on_what_it_ran(tmp_path):
    do(tmp_path, a_run(tmp_path, BASE))
    lines = [json.loads(line) for line in pathlib.Path(tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(line["cores"], line["gpus"], line["machine"]) for line in lines] == [(2, 1, "a machine")] * 2
