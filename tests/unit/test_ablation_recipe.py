"""What a grid's recipe is made by, docs/tasks.md's own included, and the command that its page names."""

import pathlib
import re

import pytest

from vilbert_jax import cli
from vilbert_jax.ablation.checks import data_sets, read_recipes
from vilbert_jax.ablation.grid import Column, Grid, Variant
from vilbert_jax.ablation.plan import make_plan
from vilbert_jax.ablation.recipe import grid_recipe, page_command, require_entries
from vilbert_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text()


def parse(flags):
    return cli.parse(["ablate.py", *flags])[0]


def test_a_grid_of_ones_own_as_the_page_prints_it(tmp_path, monkeypatch):
    name, code = re.search(r"```python\n# (mine/\S+)\n(.*?)```", PAGE, re.DOTALL).groups()
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(code)
    monkeypatch.chdir(ROOT)
    config = parse([f"--config={tmp_path / name}", "--config.seeds=(0,1)", "--config.only_variants=deep"])
    require_entries(config.keys())
    grid = Grid.from_dict(config.to_dict())
    assert [variant.name for variant in grid.variants] == ["shallow", "deep", "deep_scratch"]  # in this order
    plan = make_plan(grid, tmp_path, tmp_path)
    assert len(plan.runs) == 2 * (2 + 3 + 3)  # two pre-trainings, three fine-tunings with their scores
    runs = read_recipes(plan.runs.values(), lambda flags: parse(flags).to_dict())
    assert "scenes/vqa_small" in data_sets(runs)
    by_name = {run.name: run.recipe for run in runs}
    assert by_name["seed0/deep/pretraining"]["model.text.num_layers"] == 6
    assert by_name["seed1/shallow/pretraining"]["total_steps"] == 1500
    # It is started as the page says.
    assert f"--config={name}" in PAGE


@pytest.mark.parametrize(("kind", "cls"), [("variant", Variant), ("column", Column)])
def test_the_page_has_every_entry(kind, cls):
    table = PAGE.split(f"| entry of a {kind} | |\n|---|---|\n")[1].split("\n\n")[0]
    named = [name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    assert named == [name for name in cls.__dataclass_fields__ if name != "name"]


def test_what_is_not_given_has_a_default():
    config = grid_recipe(variants={"a": {"title": "A"}}, columns={}, pretraining="configs/tiny.py").to_dict()
    assert config["seeds"] == (0,)
    assert (config["only_variants"], config["only_columns"], config["gpus"], config["reference"]) == ("",) * 4
    assert (config["parallel"], config["report_only"], config["data_dir"]) == (0, False, "")
    assert config["pretraining"] == {"recipe": "configs/tiny.py", "flags": ()}
    assert config["finetuning"] == {"flags": ()}


def test_another_config_is_no_grid(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="is no grid: it lacks columns, finetuning, .*Make it by .*grid_recipe"):
        require_entries(parse(["--config=configs/tiny.py"]).keys())
    keys = {*grid_recipe(variants={}, columns={}, pretraining="").keys()}
    require_entries(keys)
    with pytest.raises(InputError, match="it lacks reference, seeds. Make"):
        require_entries(keys - {"seeds", "reference"})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--config=a.py", "--workdir=/here"], "--config=a.py"),
        (["--config=a.py", "--workdir", "/here", "--config.seeds=(0,1)"], "--config=a.py '--config.seeds=(0,1)'"),
        (["-workdir", "/here", "--config=a.py", "--config.data_dir", "/data"], "--config=a.py"),
        (["--config=a.py", "--config.report_only=True", "--config.parallel=4"], "--config=a.py"),
        (["--config.report_only", "--config=a.py", "--noconfig.report_only"], "--config=a.py"),
        (["--config=a.py", "--config.only_variants=x,y", "--config.only_columns", "z"], "--config=a.py"),
        (
            ["--config=a.py", "--config.seeds=(0,1)", "--config.gpus=0,1"],
            "--config=a.py '--config.seeds=(0,1)' --config.",
        ),
        (["--config=a.py", "--config.pretraining.flags=('data_dir=1',)"], "--config=a.py '--config.pretraining.flags="),
    ],
)
def test_the_page_names_the_command_that_makes_it(given, shown):
    command = page_command(given)
    assert command.startswith(f"python experiments/ablate.py {shown}")
    assert "only" not in command
    assert "here" not in command
    assert "/data" not in command
