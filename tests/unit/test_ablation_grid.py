"""From a grid to its runs and back to values; grids that cannot be run; the grids of configs/."""

import dataclasses
import json
import pathlib

import pytest

from vilbert_jax import cli
from vilbert_jax.ablation.checks import check_recipes, model_sizes
from vilbert_jax.ablation.grid import Column, Grid, Value, Variant
from vilbert_jax.ablation.plan import Cell, make_plan, read_values
from vilbert_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
FOLDER, DATA = pathlib.Path("/grid"), pathlib.Path("/data")
TWO = Variant(name="two", title="two streams")
PLAIN = Variant(name="plain", title="not pre-trained", pretrained=False, model=("num_streams=1",))
VQA = Column(name="vqa", title="VQA", recipe="configs/vqa.py:scenes", split="test", metric="accuracy")
ZERO = Column(name="zero", title="zero-shot", recipe="configs/zero.py", split="test", metric="r", trained=False)
GRID = Grid(variants=(TWO, PLAIN), columns=(VQA, ZERO), seeds=(3,), pretraining="configs/tiny.py")


def plan(**changes):
    return make_plan(dataclasses.replace(GRID, **changes), FOLDER, DATA)


def command(plan, name):
    """The arguments of a run, the folder it writes to left out."""
    return list(plan.runs[name].command[:-1])


def parse(flags):
    return cli.parse(["the recipe", *flags])[0].to_dict()


def test_a_grid_becomes_these_commands():
    found = plan()
    before = "seed3/two/pretraining"
    assert command(found, before) == [
        "experiments/pretrain.py", "--config=configs/tiny.py", "--config.data_dir=/data", "--config.seed=3",
    ]  # fmt: skip
    assert command(found, "seed3/two/vqa/training") == [
        "experiments/finetune.py", "--config=configs/vqa.py:scenes", f"--config.init_from=/grid/{before}",
        "--config.data_dir=/data", "--config.seed=3",
    ]  # fmt: skip
    assert found.runs["seed3/two/vqa/training"].command[-1] == "--workdir=/grid/seed3/two/vqa/training"
    assert command(found, "seed3/two/vqa/evaluation") == [
        "experiments/evaluate.py", "--config=configs/vqa.py:scenes", "--config.data_dir=/data",
        "--checkpoint=/grid/seed3/two/vqa/training", "--split=test",
    ]  # fmt: skip
    assert found.runs["seed3/two/zero/evaluation"].command[-1] == "--output=/grid/seed3/two/zero/evaluation"
    assert "--checkpoint=/grid/seed3/two/pretraining" in found.runs["seed3/two/zero/evaluation"].command
    assert command(found, "seed3/plain/vqa/training") == [
        "experiments/finetune.py", "--config=configs/vqa.py:scenes", "--config.model.num_streams=1",
        "--config.data_dir=/data", "--config.seed=3",
    ]  # fmt: skip
    assert {name: run.needs for name, run in found.runs.items()} == {
        before: (), "seed3/two/vqa/training": (before,), "seed3/two/vqa/evaluation": ("seed3/two/vqa/training",),
        "seed3/two/zero/evaluation": (before,),
        "seed3/plain/vqa/training": (), "seed3/plain/vqa/evaluation": ("seed3/plain/vqa/training",),
    }  # fmt: skip
    assert found.evaluations[Cell("plain", "zero", 3)] is None  # nothing to evaluate without fine-tuning


def test_flags_go_where_they_belong_and_the_last_one_wins():
    variant = dataclasses.replace(
        TWO, model=("num_streams=1",), pretraining=("steps=5",), finetuning=("blank=True",), init_from="a-bert"
    )
    column = dataclasses.replace(VQA, flags=("length=9",), eval_flags=("rules=2017",))
    own = Column(name="own", title="", recipe="", split="val", metric="loss", trained=False, script="scorer.py",
                 flags=("a=1",), eval_flags=("masking=x",))  # fmt: skip
    found = plan(
        variants=(variant,),
        columns=(column, own),
        pretraining_flags=("steps=1", "rate=2"),
        finetuning_flags=("length=1",),
    )
    flags = {
        name: [part.removeprefix("--config.") for part in run.command if part.startswith("--config.")]
        for name, run in found.runs.items()
    }
    shared = ["data_dir=/data", "seed=3"]
    assert flags["seed3/two/pretraining"] == ["steps=5", "rate=2", "model.num_streams=1", "init_from=a-bert", *shared]
    start = "init_from=/grid/seed3/two/pretraining"
    assert flags["seed3/two/vqa/training"] == ["length=9", "blank=True", start, *shared]
    assert flags["seed3/two/vqa/evaluation"] == ["length=9", "blank=True", "rules=2017", "data_dir=/data"]
    assert flags["seed3/two/own/evaluation"] == [
        "steps=5", "rate=2", "model.num_streams=1", "a=1", "masking=x", "data_dir=/data",
    ]  # fmt: skip
    assert found.runs["seed3/two/own/evaluation"].command[:2] == ("scorer.py", "--config=configs/tiny.py")
    plain = plan(variants=(dataclasses.replace(variant, pretrained=False),), columns=(column,))
    assert "--config.init_from=a-bert" in plain.runs["seed3/two/vqa/training"].command
    assert "--config.model.num_streams=1" in plain.runs["seed3/two/vqa/training"].command


def test_equal_work_is_done_once():
    same = dataclasses.replace(TWO, name="same", title="the same")
    blind = dataclasses.replace(TWO, name="blind", title="blind", finetuning=("blank_pictures=True",))
    other_split = dataclasses.replace(VQA, name="vqa_val", split="validation")
    other_metric = dataclasses.replace(VQA, name="soft", metric="soft_accuracy")
    found = plan(variants=(TWO, same, blind), columns=(VQA, other_split, other_metric))
    assert set(found.runs) == {
        "seed3/two/pretraining", "seed3/two/vqa/training", "seed3/two/vqa/evaluation", "seed3/two/vqa_val/evaluation",
        "seed3/blind/vqa/training", "seed3/blind/vqa/evaluation", "seed3/blind/vqa_val/evaluation",
    }  # fmt: skip
    assert found.evaluations[Cell("same", "soft", 3)] == "seed3/two/vqa/evaluation"
    assert len(plan(seeds=(3, 4)).runs) == 2 * len(plan().runs)


def test_an_evaluation_may_read_an_earlier_one():
    joint = dataclasses.replace(VQA, name="joint", eval_flags=("answers={vqa}/predictions.json",))
    found = plan(columns=(VQA, joint))
    run = found.runs["seed3/two/joint/evaluation"]
    assert "--config.answers=/grid/seed3/two/vqa/evaluation/predictions.json" in run.command
    assert run.needs == ("seed3/two/vqa/training", "seed3/two/vqa/evaluation")
    names = [run.name for run in found.needed((TWO,), (joint,))]  # what it reads, though not asked for
    assert names == [
        "seed3/two/pretraining", "seed3/two/vqa/training", "seed3/two/vqa/evaluation", "seed3/two/joint/evaluation",
    ]  # fmt: skip
    reads_nothing = dataclasses.replace(VQA, name="lost", eval_flags=("answers={zero}/predictions.json",))
    found = plan(columns=(ZERO, reads_nothing))
    assert found.evaluations[Cell("plain", "lost", 3)] is None
    assert found.evaluations[Cell("two", "lost", 3)] == "seed3/two/lost/evaluation"


def test_what_is_asked_for_does_not_change_names():
    found = plan()
    variants, columns = GRID.chosen("plain", " vqa,")
    assert (variants, columns) == ((PLAIN,), (VQA,))
    assert [run.name for run in found.needed(variants, columns)] == [
        "seed3/plain/vqa/training", "seed3/plain/vqa/evaluation",
    ]  # fmt: skip
    assert GRID.chosen("", "zero,vqa") == ((TWO, PLAIN), (VQA, ZERO))


def test_values_say_what_became_of_each_cell(tmp_path):
    grid = dataclasses.replace(GRID, seeds=(3, 4, 5))
    found = make_plan(grid, tmp_path, DATA)
    path = tmp_path / "seed3" / "two" / "vqa" / "evaluation" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"metrics": {"accuracy": 61.25, "soft": 1}}))
    results = {
        "seed3/two/vqa/evaluation": "done", "seed4/two/vqa/evaluation": "failed",
        "seed3/plain/vqa/evaluation": "skipped",
    }  # fmt: skip
    values = read_values(found, grid.variants, grid.columns, grid.seeds, results)
    assert values == [
        Value("two", "vqa", 3, 61.25, "done"),
        Value("two", "vqa", 4, None, "failed"),
        Value("two", "vqa", 5, None, "missing"),
        *(Value("two", "zero", seed, None, "missing") for seed in (3, 4, 5)),
        Value("plain", "vqa", 3, None, "failed"),
        Value("plain", "vqa", 4, None, "missing"),
        Value("plain", "vqa", 5, None, "missing"),
        *(Value("plain", "zero", seed, None, "empty") for seed in (3, 4, 5)),
    ]
    wrong = dataclasses.replace(VQA, metric="accurracy")
    with pytest.raises(InputError, match="metric 'accurracy', which is None .*there are accuracy, soft"):
        read_values(found, (TWO,), (wrong,), (3,), results)
    path.write_text('{"metrics": null}')
    with pytest.raises(InputError, match="the split has no labels"):
        read_values(found, (TWO,), (VQA,), (3,), results)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(variants=()), "no variants"),
        (dict(variants=(TWO, TWO)), "have 'two' twice"),
        (dict(columns=(VQA, VQA)), "have 'vqa' twice"),
        (dict(seeds=()), "no seeds"),
        (dict(seeds=(1, 1)), "have 1 twice"),
        (dict(seeds=(-1,)), "at least 0, not -1"),
        (dict(columns=(dataclasses.replace(VQA, name="a/b"),)), "'a/b' cannot name"),
        (dict(finetuning_flags=("--config.a=1",)), "'--config.a=1' is not KEY=VALUE"),
        (dict(variants=(dataclasses.replace(TWO, model=("deep",)),)), "variant two: the flag 'deep' is not KEY=VALUE"),
        (dict(columns=(dataclasses.replace(VQA, recipe=""),)), "no recipe to fine-tune with"),
        (dict(columns=(dataclasses.replace(VQA, eval_flags=("a={vqa}",)),)), "evaluation of {vqa}, which no column"),
        (dict(columns=(dataclasses.replace(VQA, flags=("a={zero}",)), ZERO)), "in flags; put it in eval_flags"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(GRID, **changes)


@pytest.mark.parametrize("names", [("three", ""), ("", "vqa,vcr")])
def test_unknown_names_are_refused(names):
    with pytest.raises(InputError, match="not in the grid: there are"):
        GRID.chosen(*names)


def recipe(**entry):
    column = dict(title="VQA", recipe="configs/vqa.py:scenes", split="test", metric="accuracy")
    return dict(
        variants={"two": dict(title="two streams") | entry}, columns={"vqa": column}, seeds=[0], parallel=3,
        pretraining=dict(recipe="configs/tiny.py", flags=["a=1"]), finetuning=dict(flags=()),
    )  # fmt: skip


def test_a_recipe_becomes_a_grid():
    found = Grid.from_dict(recipe(model=["num_streams=1"]))
    assert found.variants == (dataclasses.replace(TWO, model=("num_streams=1",)),)
    assert (found.columns, found.seeds, found.pretraining_flags) == ((VQA,), (0,), ("a=1",))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (dict(modle=()), r"variant two: unknown entries \['modle'\]"),
        (dict(name="x"), r"unknown entries \['name'\]"),
        (dict(model="num_streams=1"), "variant two: model is 'num_streams=1'"),
        (dict(pretrained="no"), "pretrained is 'no'"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused(entry, words):
    with pytest.raises(InputError, match=words):
        Grid.from_dict(recipe(**entry))
    missing = recipe()
    del missing["columns"]["vqa"]["metric"]
    with pytest.raises(InputError, match=r"column vqa: unknown entries \[\], missing entries \['metric'\]"):
        Grid.from_dict(missing)


@pytest.mark.parametrize("name", ["ablation.py", "ablation.py:scenes", "demo_tasks.py"])
def test_every_run_of_the_grids_of_this_project_can_be_configured(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = Grid.from_dict(parse([f"--config=configs/{name}"]))
    found = make_plan(grid, FOLDER, DATA)
    assert check_recipes(list(found.runs.values()), parse)
    sizes = model_sizes(grid, grid.variants, parse)
    if name.startswith("ablation"):
        parameters, flops = ({v: sizes[v][k] for v in sizes} for k in (0, 1))
        one_layer = parameters["single_stream_compute"] - parameters["single_stream"]
        assert abs(parameters["single_stream_parameters"] - parameters["two_stream"]) <= one_layer
        assert parameters["single_stream"] < 0.6 * parameters["two_stream"]
        assert abs(flops["single_stream_compute"] / flops["two_stream"] - 1) < 0.15
        assert parameters["depth_2"] < parameters["depth_4"] < parameters["depth_6"] < parameters["depth_8"]
        assert found.evaluations[Cell("data_100", "vqa", 0)] == found.evaluations[Cell("two_stream", "vqa", 0)]
        assert found.evaluations[Cell("data_0", "vqa", 0)] == found.evaluations[Cell("two_stream_scratch", "vqa", 0)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(pretraining="configs/tinny.py"), "seed3/two/pretraining cannot be run: there is no config file"),
        (
            dict(pretraining_flags=("total_step=1",)),
            "total_step does not exist in this config; did you mean total_steps",
        ),
        (dict(columns=(dataclasses.replace(VQA, flags=("rule=1",)),)), "seed3/two/vqa/training cannot be run: .*rules"),
        (dict(variants=(dataclasses.replace(TWO, model=("text.num_heads=5",)),)), "multiple of text.num_heads"),
    ],
)
def test_a_mistake_in_a_flag_is_found_before_anything_runs(monkeypatch, changes, words):
    monkeypatch.chdir(ROOT)
    found = plan(**({"columns": (VQA,)} | changes))
    with pytest.raises(InputError, match=words):
        check_recipes(list(found.runs.values()), parse)
