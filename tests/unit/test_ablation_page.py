"""docs/reproducing.md against the code: its figures, its commands, its costs."""

import pathlib
import re
import runpy
import shlex

import pytest

from vilbert_jax import cli
from vilbert_jax.ablation import published
from vilbert_jax.ablation.grid import Grid
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data import PretrainingDataConfig
from vilbert_jax.model_size import forward_flops
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.optimizer import OptimizerConfig

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproducing.md").read_text()
PEAKS = {"A100": 312e12, "TPU v4": 275e12, "Titan X": 11e12}
HELP = {"checkpoint": "What to read.", "split": "Of the data."}


def table(heading):
    """Row name -> cells, of the first table below a heading."""
    text = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in line.split(" | ")] for name, line in lines}


def test_its_figures_are_those_of_the_tables_of_results():
    rows = table("Expected scores")
    assert rows.keys() == published._ROWS.keys()
    for name, cells in rows.items():
        figures = [published.figures(name).get(measure) for measure in published.MEASURES]
        shown = [f"**{one.value:.2f}**" if one.confirmed else f"{one.value:.2f}" for one in figures if one]
        assert cells == shown + ["–"] * (len(published.MEASURES) - len(shown)), name
    tested = "VQA test-std 70.92; VCR test Q->A 73.3, QA->R 74.6, Q->AR 54.8."
    assert tested in PAGE
    assert [float(number) for number in re.findall(r" (\d\d\.\d+)", tested)] == [*published._TESTED.values()]


COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    python experiments/")]
FLAGS = re.findall(r"`([\"']?--config\.[^`]*)`", PAGE)  # in text and tables


def test_the_page_has_commands():
    assert len(COMMANDS) > 10
    assert len(FLAGS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *flags = shlex.split(command)[1:]
    assert (ROOT / program).is_file()
    folder = "output" if program.endswith("evaluate.py") else "workdir"
    cli.parse([program, *flags], folder=folder, flags=HELP if folder == "output" else None)


@pytest.mark.parametrize("flags", FLAGS)
def test_its_switches_exist_in_pretraining_or_fine_tuning(flags, monkeypatch):
    """Each set of flags belongs to one recipe at least, and all that is made of it accepts the values."""
    monkeypatch.chdir(ROOT)
    found = []
    for recipe in ("base", "vqa", "vcr_qa", "flickr30k", "ablation"):
        given = shlex.split(flags.replace("\\|", "|"))
        try:
            config, *_ = cli.parse(["main.py", f"--config=configs/{recipe}.py", *given])
        except cli.InputError:
            continue
        found.append(recipe)
        if "task" in config:
            cli.build_task(config)
        elif "masked_losses_on" in config:
            model = ViLBERTConfig.from_dict(config.model.to_dict())
            cli.build(PretrainingDataConfig, config, **pretraining.data_fields(model))
            pretraining.loss_weights(config.loss_weights.to_dict())
        if "optimizer" in config:
            OptimizerConfig(**config.optimizer.to_dict())
    assert found


def recipes():
    """Task -> (words, regions, pairs of the whole training), from the recipes; VCR as the page trains it."""
    found = {"pretraining": (36, 37, 61_000 * 512)}
    for name, pairs in (("vqa", 1), ("vcr_qa", 4), ("refcoco_plus", 1), ("flickr30k", 4)):
        flags = ["--config.text_length=80", "--config.total_steps=133080"] if name == "vcr_qa" else []
        config, *_ = cli.parse(["main.py", f"--config={ROOT / 'configs' / name}.py", *flags])
        found[name] = (config.text_length, config.max_regions + 1, config.total_steps * config.batch_size * pairs)
    base = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]()
    assert found["pretraining"] == (base.text_length, base.max_regions + 1, base.total_steps * base.batch_size)
    return found


def models():
    grid = Grid.from_dict(runpy.run_path(str(ROOT / "configs" / "ablation.py"))["get_config"]().to_dict())
    for variant in grid.variants:
        flags = [f"--config.model.{flag}" for flag in variant.model]
        config, *_ = cli.parse(["main.py", f"--config={ROOT / 'configs' / 'base.py'}", *flags])
        yield variant, ViLBERTConfig.from_dict(config.model.to_dict())


def test_its_costs_follow_from_the_recipes():
    rows, tasks, checked, total, disk = table("Cost"), recipes(), set(), 0.0, 0.0
    peaks = [0.4 * peak * 3600 for peak in PEAKS.values()]
    seen = set()
    for variant, model in models():
        exa = {name: 3 * forward_flops(model, *size) * pairs / 1e18 for name, (*size, pairs) in tasks.items()}
        if not variant.pretrained:
            exa["pretraining"] = 0.0
        key = (variant.pretrained, variant.model, variant.pretraining)
        if key not in seen:
            total += sum(exa.values())
            disk += model.num_parameters() * (3 * 12 * variant.pretrained + 4 * (12 + 4))  # kept checkpoints, best ones
        seen.add(key)
        if variant.name not in rows:
            continue
        checked.add(variant.name)
        cells = rows[variant.name]
        assert cells[:2] == [f"{model.num_parameters() / 1e6:.1f}", f"{forward_flops(model, 36, 37) / 1e9:.1f}"]
        assert cells[2] == (f"{exa['pretraining']:.2f}" if variant.pretrained else "–")
        everything = [*list(exa.values())[1:], sum(exa.values())]
        assert cells[3:8] == [f"{number:.2f}" for number in everything], variant.name
        hours = [sum(exa.values()) * 1e18 / peak for peak in peaks]
        assert cells[8:] == [f"{hours[0]:.1f}", f"{hours[1]:.1f}", f"{hours[2]:.0f}"], variant.name
    assert checked == rows.keys()
    assert f"{total:.0f} EFLOP a seed:\nabout {total * 1e18 / peaks[0]:.0f} A100 hours" in PAGE
    assert sum(key[0] for key in seen) == 15
    assert len(seen) == 19
    assert "is 15 pre-trainings and 19 times four fine-tunings" in PAGE
    assert f"{3 * total * 1e18 / peaks[0]:.0f} for three seeds" in PAGE
    assert f"about {disk / 1e12:.2f} TB a seed" in PAGE
