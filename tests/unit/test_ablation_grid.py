"""From a grid to its runs and back to values; grids that cannot be run; the grids of configs/."""

import dataclasses
import json
import pathlib

import pytest

from vilbert_jax import cli
from vilbert_jax.ablation.checks import data_sets, model_sizes, read_recipes, require_data
from vilbert_jax.ablation.grid import Column, Grid, Value, Variant
from vilbert_jax.ablation.plan import Cell, config_flags, make_plan, model_flags, read_values
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model_size import forward_flops

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
    plain = plan(variants=(dataclasses.replace(variant, pretrained=False, pretraining=()),), columns=(column,))
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


def test_evaluations_get_the_flags_of_fine_tuning_but_not_its_precision():
    """What decides how an example looks must not differ between training and evaluation; scores are float32's."""
    region_loss = dataclasses.replace(ZERO, name="loss", recipe="", script="scorer.py")
    exact = dataclasses.replace(ZERO, name="exact", eval_flags=("model.dtype=bfloat16",))
    found = plan(
        columns=(VQA, ZERO, exact, region_loss),
        pretraining_flags=("model.dtype=bfloat16", "text_length=20"),
        finetuning_flags=("model.dtype=bfloat16", "truncation=cut"),
    )
    flags = {name.removeprefix("seed3/two/"): set(run.command) for name, run in found.runs.items()}
    half, cut = "--config.model.dtype=bfloat16", "--config.truncation=cut"
    assert flags["vqa/training"] > {half, cut}
    assert flags["pretraining"] > {half, "--config.text_length=20"}
    for name in ("vqa", "zero"):
        assert cut in flags[f"{name}/evaluation"]
        assert half not in flags[f"{name}/evaluation"]
    assert flags["exact/evaluation"] > {half, cut}
    assert "--config.text_length=20" in flags["loss/evaluation"]
    assert not flags["loss/evaluation"] & {half, cut}


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
    values, problems = read_values(found, grid.columns, results)
    assert not problems
    assert sorted(values) == sorted([
        Value("two", "vqa", 3, 61.25, "done"),
        Value("two", "vqa", 4, None, "failed"),
        Value("two", "vqa", 5, None, "missing"),
        *(Value("two", "zero", seed, None, "missing") for seed in (3, 4, 5)),
        Value("plain", "vqa", 3, None, "failed"),
        Value("plain", "vqa", 4, None, "missing"),
        Value("plain", "vqa", 5, None, "missing"),
        *(Value("plain", "zero", seed, None, "empty") for seed in (3, 4, 5)),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"metrics": {"accuracy": NaN}}', "accuracy is nan, which is no finite number"),
        ('{"metrics": {"accuracy": true}}', "accuracy is True, which is no finite number"),
        ('{"metrics": {"accuracy": "high"}}', "accuracy is 'high'"),
        ('{"metrics": {"soft": 1, "hard": 2}}', "no metric 'accuracy'; there are soft, hard"),
        ('{"metrics": {}}', "no metric 'accuracy'; there are none"),
        ('{"metrics": null}', "the split has no labels"),
        *((content, "is damaged; without it") for content in ("{}", "[]", '{"metr', "", b"\xff{}")),
    ],
)
def test_a_score_that_cannot_be_used_costs_its_own_cell_alone(tmp_path, content, what):
    grid = dataclasses.replace(GRID, variants=(TWO,), columns=(VQA,), seeds=(3, 4))
    found = make_plan(grid, tmp_path, DATA)
    for seed, text in ((3, content), (4, '{"metrics": {"accuracy": 50}}')):
        path = tmp_path / f"seed{seed}" / "two" / "vqa" / "evaluation" / "metrics.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    values, problems = read_values(found, grid.columns, dict.fromkeys(found.runs, "done"))
    assert values == [Value("two", "vqa", 3, None, "failed"), Value("two", "vqa", 4, 50.0, "done")]
    (problem,) = problems
    assert problem.startswith(str(tmp_path / "seed3" / "two" / "vqa" / "evaluation" / "metrics.json"))
    assert what in problem


# --- columns for some groups

BASE = Variant(name="base", title="base", group="models")
SAME = Variant(name="same_1", title="the same", group="data")  # shares all runs with the base, but not its cells
OTHER = Variant(name="other_2", title="other", group="data", pretraining=("steps=1",))
MASKED = Variant(name="masked", title="masked", group="masking", pretraining=("masking=x",))
FOR_SOME = dataclasses.replace(VQA, groups=("masking",))
GROUPS = Grid(
    variants=(SAME, BASE, OTHER, MASKED), columns=(ZERO, FOR_SOME), seeds=(3,), pretraining="configs/tiny.py",
    reference="base",
)  # fmt: skip


def test_a_column_may_be_for_some_groups_and_the_reference():
    found = make_plan(GROUPS, FOLDER, DATA)
    assert {cell.variant for cell in found.evaluations if cell.column == "vqa"} == {"base", "masked"}
    assert {cell.variant for cell in found.evaluations if cell.column == "zero"} == {
        "same_1",
        "base",
        "other_2",
        "masked",
    }
    assert {name for name in found.runs if "/vqa/" in name} == {
        f"seed3/{variant}/vqa/{kind}" for variant in ("base", "masked") for kind in ("training", "evaluation")
    }
    values, _ = read_values(found, GROUPS.columns, {})
    assert len(values) == 6
    first = dataclasses.replace(GROUPS, reference="")  # the first variant is it
    assert {c.variant for c in make_plan(first, FOLDER, DATA).evaluations if c.column == "vqa"} == {"same_1", "masked"}


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
        (dict(seeds=(True,)), "at least 0, not True"),
        (dict(columns=(dataclasses.replace(VQA, digits=-1),)), "digits=-1: choose 0 to 9"),
        (dict(columns=(dataclasses.replace(VQA, unit="bits"),)), "unit='bits': choose percent or nats"),
        (dict(variants=(dataclasses.replace(TWO, group="depth"),)), "two of the group 'depth' .* such as depth_25"),
        (dict(columns=(dataclasses.replace(VQA, title="a|b"),)), "one line without |"),
        (dict(variants=(dataclasses.replace(TWO, title="a\nb"),)), "one line without |"),
        (dict(columns=(dataclasses.replace(VQA, groups=("depth",)),)), "column vqa is for group 'depth'; there are"),
        (dict(reference="three"), "reference 'three' is no variant of the grid: there are two, plain"),
        (dict(pretraining_flags=("seed=1",)), "pretraining: the grid itself sets 'seed=1'"),
        (dict(variants=(dataclasses.replace(TWO, finetuning=("init_from=x",)),)), "variant two: the grid itself sets"),
        (dict(columns=(dataclasses.replace(VQA, eval_flags=("data_dir=x",)),)), "column vqa: the grid itself sets"),
        (
            dict(variants=(dataclasses.replace(PLAIN, pretraining=("a=1",)),)),
            "plain has flags of pre-training, but is not",
        ),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(GRID, **changes)


@pytest.mark.parametrize("names", [("three", ""), ("", "vqa,vcr")])
def test_unknown_names_are_refused(names):
    with pytest.raises(InputError, match="not in the grid: there are"):
        GRID.chosen(*names)


def _depth(grid, name):
    """Layers of a single stream."""
    (variant,) = (variant for variant in grid.variants if variant.name == name)
    recipe = parse([f"--config={grid.pretraining}", *config_flags(model_flags(variant))])
    return recipe["model"]["text"]["num_layers"]


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


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seeds", None, "seeds are None"),
        ("pretraining", dict(flags=()), "pretraining is .*expected recipe="),
        ("pretraining", dict(recipe="r", flags="a=1"), "pretraining is .*expected flags="),
        ("finetuning", "none", "finetuning is 'none'; expected flags="),
        ("variants", None, "variants are None"),
        ("variants", dict(two="two streams"), "variant two is 'two streams'; expected its entries"),
    ],
)
def test_an_entry_of_a_wrong_type_is_refused(key, value, words):
    with pytest.raises(InputError, match=words):
        Grid.from_dict(recipe() | {key: value})


def test_flags_of_a_recipe_may_be_left_out():
    found = Grid.from_dict(recipe() | dict(pretraining=dict(recipe="r"), finetuning={}, reference="two"))
    assert (found.pretraining_flags, found.finetuning_flags, found.reference) == ((), (), "two")


@pytest.mark.parametrize("name", ["ablation.py", "ablation.py:scenes", "demo_tasks.py"])
def test_every_run_of_the_grids_of_this_project_can_be_configured(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = Grid.from_dict(parse([f"--config=configs/{name}"]))
    found = make_plan(grid, FOLDER, DATA)
    assert "scenes/captions_small" in data_sets(read_recipes(found.runs.values(), parse)) or name == "ablation.py"
    sizes = model_sizes(grid, grid.variants, parse)
    if name.startswith("ablation"):
        parameters, flops = ({v: sizes[v][k] for v in sizes} for k in (0, 1))
        one_layer = parameters["single_stream_compute"] - parameters["single_stream"]
        assert abs(parameters["single_stream_parameters"] - parameters["two_stream"]) <= one_layer
        assert parameters["single_stream"] < 0.6 * parameters["two_stream"]
        one_layer = (flops["single_stream_parameters"] - flops["single_stream"]) / (
            _depth(grid, "single_stream_parameters") - _depth(grid, "single_stream")
        )
        assert abs(flops["single_stream_compute"] - flops["two_stream"]) <= 0.51 * one_layer  # the nearest depth
        assert parameters["depth_2"] < parameters["depth_4"] < parameters["depth_6"] < parameters["depth_8"]
        for same, other in (("data_100", "two_stream"), ("data_0", "two_stream_scratch")):
            tuned, others = (found.evaluations[Cell(variant, "flickr30k", 0)] for variant in (same, other))
            assert tuned == others
        for_models = ("data_100", "vqa", 0) in found.evaluations
        assert for_models == (name == "ablation.py")  # on the embedded data, hours count
        assert ("masking_released", "region_loss_released", 0) in found.evaluations


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
        (dict(columns=(dataclasses.replace(VQA, script="experiments/score.py"),)), "there is no experiments/score.py"),
        (
            dict(columns=(dataclasses.replace(VQA, recipe="configs/tiny.py"),)),
            "no entry 'task'.*experiments/finetune.py",
        ),
        (
            dict(pretraining="configs/vqa.py:scenes"),
            "no entry 'masked_losses_on', so it is not for experiments/pretrain",
        ),
        (
            dict(pretraining_flags=tuple(f"loss_weights.{n}_loss=0.0" for n in ("token", "region", "alignment"))),
            "its loss_weights are all 0",
        ),
    ],
)
def test_a_mistake_in_a_flag_is_found_before_anything_runs(monkeypatch, changes, words):
    monkeypatch.chdir(ROOT)
    found = plan(**({"columns": (VQA,)} | changes))
    with pytest.raises(InputError, match=words):
        read_recipes(found.runs.values(), parse)


RECIPE = """
from ml_collections import ConfigDict
from vilbert_jax.config import ViLBERTConfig
import dataclasses

def get_config():
    model = ConfigDict(dataclasses.asdict(ViLBERTConfig.tiny()))
    return ConfigDict(dict(model=model, seed=0, init_from="", data_dir="", build_hint="HINT", vocab="FOLDER/vocab.txt",
                           rates=(("a", 0.5),), annotations="notes/a", regions="store", given_regions="", task="t"))
"""


def test_what_a_recipe_says_belongs_to_a_run(tmp_path, monkeypatch):
    """Not where its data and its vocabulary lie, its seed, its start, or its hints."""
    monkeypatch.chdir(ROOT)
    column = dataclasses.replace(VQA, recipe=str(tmp_path / "r.py"))

    def said(text, seed=0, data="/data"):
        (tmp_path / "r.py").write_text(RECIPE.replace("FOLDER", str(tmp_path)) + text)
        grid = dataclasses.replace(GRID, variants=(PLAIN,), columns=(column,), seeds=(seed,))
        return read_recipes(make_plan(grid, FOLDER, pathlib.Path(data)).runs.values(), parse)

    training, evaluation = said("")
    assert training.recipe == evaluation.recipe | {"model.num_streams": 1}
    assert training.recipe["rates"] == [["a", 0.5]]
    assert training.recipe["vocab"] == "vocab.txt"
    assert not training.recipe.keys() & {"seed", "init_from", "data_dir", "build_hint"}
    assert json.loads(json.dumps(training.recipe)) == training.recipe
    assert data_sets([training, evaluation]) == ["notes/a", "store"]
    assert said("\n# a comment", seed=1, data="/elsewhere")[0].recipe == training.recipe
    edited = said(
        "\nold = get_config\ndef get_config():\n    c = old()\n    c.model.text.num_layers += 1\n    return c\n"
    )
    changed = {key for key in training.recipe if edited[0].recipe[key] != training.recipe[key]}
    assert changed == {"model.text.num_layers"}


def test_operations_are_counted_at_the_lengths_of_pretraining(monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = dataclasses.replace(GRID, pretraining_flags=("text_length=11", "max_regions=7"))
    model = ViLBERTConfig.from_dict(parse(["--config=configs/tiny.py"])["model"])
    sizes = model_sizes(grid, (TWO,), parse)
    assert sizes == {"two": (model.num_parameters(), forward_flops(model, 11, 8))}  # seven regions and the global one


def test_variants_without_a_model_have_no_size(monkeypatch):
    monkeypatch.chdir(ROOT)
    variants = (
        dataclasses.replace(TWO, model=("nope=1",)),
        dataclasses.replace(TWO, name="three", model=("num_streams=3",)),
        PLAIN,
    )
    grid = dataclasses.replace(GRID, variants=variants)
    assert model_sizes(grid, variants, parse).keys() == {"plain"}
    model = parse(["--config=configs/tiny.py"])["model"]
    assert model_sizes(GRID, (TWO,), lambda flags: {"model": model}) == {}


def test_data_sets_that_are_missing_are_named_all_at_once(tmp_path):
    (tmp_path / "vqa_v2").mkdir()
    store = tmp_path / "somewhere"
    store.mkdir()
    require_data(["vqa_v2", str(store)], tmp_path)
    with pytest.raises(InputError) as error:
        require_data(["vqa_v2", "vcr/choice", "region_features/vcr"], tmp_path)
    message = str(error.value)
    assert f"2 data sets of this grid are not in {tmp_path}" in message
    assert f"python tfds_builders/build.py vcr --config=choice --data_dir={tmp_path}" in message
    assert "python tfds_builders/build.py region_features --config=vcr --source=PATH" in message
