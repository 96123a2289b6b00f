"""experiments/ablate.py: a whole grid of real trainings, and every way to end with mains that are a few lines long."""

import csv
import json
import os
import pathlib
import runpy
import subprocess
import sys

import fake_grid
import pytest
import tensorflow_datasets as tfds

from tfds_builders import scenes
from tfds_builders.scenes.scenes_dataset_builder import make_configs

ROOT = pathlib.Path(__file__).parents[2]
ABLATE = str(ROOT / "experiments" / "ablate.py")
SMALLER = (
    "batch_size=8", "total_steps=2", "eval_every=2", "checkpoint_every=2", "model.text.width=16",
    "model.text.mlp_dim=16", "model.text.num_layers=1", "model.text_co_layers=(0,)", "model.region_co_layers=(0,)",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data sets that the grid reads, under their own names, with a handful of pictures in them."""
    folder = tmp_path_factory.mktemp("tfds")
    for config in make_configs("tiny", {"train": 24, "validation": 5, "test": 5}, calibration_scenes=20):
        if config.name in ("captions_tiny", "regions_tiny", "vqa_tiny"):
            builder = scenes.Builder(config=config, data_dir=folder, file_format="array_record", processes=1)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig())
            built = folder / "scenes" / config.name
            built.rename(built.with_name(config.name.replace("tiny", "small")))
    return folder


def table(folder):
    return list(csv.DictReader((folder / "ablation.csv").read_text().splitlines()))


def attempts(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_a_grid_of_trainings_becomes_a_table_and_is_not_run_again(data, tmp_path):
    smaller = ",".join(f"'{flag}'" for flag in SMALLER)
    command = [
        sys.executable, ABLATE, "--config=configs/ablation.py:scenes", f"--config.data_dir={data}",
        "--config.seeds=(0,)", "--config.parallel=2", "--config.only_columns=vqa",
        "--config.only_variants=single_stream,single_stream_scratch",
        f"--config.pretraining.flags=({smaller})", f"--config.columns.vqa.flags=({smaller})",
        f"--workdir={tmp_path / 'grid'}",
    ]  # fmt: skip
    run = dict(cwd=ROOT, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True)
    first = subprocess.run(command, **run)
    logs = "\n".join(path.read_text() for path in tmp_path.rglob("log.txt"))
    assert first.returncode == 0, first.stderr + logs
    everything = table(tmp_path / "grid")  # of the whole grid, of which this is a part
    rows = [row for row in everything if row["status"] == "done"]
    assert [(row["variant"], row["column"]) for row in rows] == [
        ("single_stream", "vqa"), ("single_stream_scratch", "vqa"),
    ]  # fmt: skip
    assert {row["status"] for row in everything} == {"done", "missing", "empty"}
    for row in rows:
        scored = tmp_path / "grid" / "seed0" / row["variant"] / "vqa" / "evaluation" / "metrics.json"
        assert float(row["value"]) == json.loads(scored.read_text())["metrics"]["accuracy"]
    assert "one stream, as in the paper" in first.stdout
    shown = next(line.strip() for line in first.stdout.splitlines() if "experiments/ablate.py" in line)
    assert shown.startswith("python experiments/ablate.py --config=configs/ablation.py:scenes '--config.seeds=(0,)'")
    assert "grid" not in shown
    assert "only_" not in shown  # the page is that of the whole grid

    before = (tmp_path / "grid" / "ablation.csv").read_bytes()
    again = subprocess.run(command, **run)
    assert (again.returncode, len(attempts(tmp_path / "grid"))) == (0, 10)
    assert (tmp_path / "grid" / "ablation.csv").read_bytes() == before
    assert again.stdout == first.stdout


# --- the same main with trainings that are a few lines long

RECIPE = """
import dataclasses
from ml_collections import ConfigDict
from vilbert_jax.config import ViLBERTConfig

def get_config():
    model = ConfigDict(dataclasses.asdict(ViLBERTConfig.tiny()))
    return ConfigDict(dict(model=model, text_length=8, max_regions=4, steps=3, broken=False, seed=0, data_dir="",
                           init_from="", task="for fine-tuning", masked_losses_on="all"))
"""
GRID = """
from vilbert_jax.ablation.recipe import grid_recipe

def get_config():
    columns = {
        "vqa": dict(title="VQA", recipe="configs/task.py", split="test", metric="accuracy"),
        "zero": dict(title="zero-shot", recipe="configs/task.py", split="test", metric="accuracy", trained=False),
    }
    variants = {
        "two": dict(title="two streams"),
        "plain": dict(title="two streams, not pre-trained", pretrained=False),
        "one": dict(title="one stream", model=("num_streams=1",), pretraining=("broken=False",)),
    }
    return grid_recipe(variants=variants, columns=columns, pretraining="configs/task.py", seeds=(0, 1))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of fake mains, in which the real ablate.py works."""
    root = fake_grid.write_mains(tmp_path / "project")
    (root / "configs").mkdir()
    (root / "configs" / "task.py").write_text(RECIPE)
    (root / "configs" / "grid.py").write_text(GRID)
    monkeypatch.chdir(root)
    return root


def ablate(project, *flags):
    """The exit code."""
    main = runpy.run_path(ABLATE)
    main["main"].__globals__.update(ROOT=project)
    with pytest.raises(SystemExit) as exit_info:
        main["cli"].run(main["main"], ["ablate.py", "--config=configs/grid.py", "--workdir=grid", *flags])
    return exit_info.value.code


def statuses(folder):
    return {(row["variant"], row["column"], row["seed"]): row["status"] for row in table(folder)}


def test_a_failed_run_is_named_its_cells_too_and_the_rest_is_done(project, capsys):
    broken = "--config.variants.one.pretraining=('broken=True',)"
    assert ablate(project, broken) == 1
    said = capsys.readouterr()
    assert "2 of 20 runs failed, and 6 that need them were not run" in said.err
    for seed in (0, 1):
        log = project / "grid" / f"seed{seed}" / "one" / "pretraining" / "log.txt"
        assert f"seed{seed}/one/pretraining: see {log}" in said.err
    assert "failed: one, vqa, zero, seed 0, 1" in said.out
    found = statuses(project / "grid")
    assert {found[key] for key in found if key[0] == "one"} == {"failed"}
    assert {found[key] for key in found if key[0] == "two"} == {"done"}
    assert found["plain", "zero", "0"] == "empty"

    # a report without running says the same
    assert ablate(project, broken, "--config.report_only=True") == 0
    assert statuses(project / "grid") == found
    # mended, what had got nowhere starts again
    assert ablate(project) == 0
    assert "failed" not in statuses(project / "grid").values()
    # but what is done stays what it was
    assert ablate(project, "--config.variants.one.pretraining=('broken=False','steps=4')") == 2
    assert "had nothing, now --config.steps=4" in capsys.readouterr().err


def test_an_edited_recipe_is_refused_like_a_changed_flag(project, capsys):
    assert ablate(project) == 0
    recipe = project / "configs" / "task.py"
    recipe.write_text("# another comment\n" + recipe.read_text())
    assert ablate(project, "--config.report_only=True") == 0
    recipe.write_text(recipe.read_text().replace("steps=3", "steps=14"))
    for flags in ((), ("--config.report_only=True",)):
        capsys.readouterr()
        assert ablate(project, *flags) == 2
        assert "pretraining: steps was 3, now 14" in capsys.readouterr().err


def test_a_score_that_cannot_be_read_is_named_and_the_rest_is_written(project, capsys):
    assert ablate(project) == 0
    scores = project / "grid" / "seed1" / "two" / "vqa" / "evaluation" / "metrics.json"
    scores.write_text('{"metrics": {"accuracy": NaN}}')
    assert ablate(project) == 1
    said = capsys.readouterr()
    assert f"{scores}: accuracy is nan, which is no finite number" in said.err
    assert "* failed: two, vqa, seed 1\n" in said.out
    found = statuses(project / "grid")
    assert [key for key in found if found[key] == "failed"] == [("two", "vqa", "1")]
    scores.unlink()
    assert ablate(project) == 0
    assert "failed" not in statuses(project / "grid").values()


def test_a_part_of_the_grid_comes_first_and_the_rest_later(project, capsys):
    assert ablate(project, "--config.only_variants=one", "--config.only_columns=zero", "--config.seeds=(1,)") == 0
    assert statuses(project / "grid")["one", "zero", "1"] == "done"
    assert len(attempts(project / "grid")) == 4
    assert ablate(project, "--config.report_only=True") == 0
    found = statuses(project / "grid")
    assert found["one", "zero", "1"] == "done"
    assert (found["one", "zero", "0"], found["two", "vqa", "0"]) == ("missing", "missing")
    assert len(attempts(project / "grid")) == 4
    assert ablate(project) == 0
    done = [attempt["run"] for attempt in attempts(project / "grid") if attempt["status"] == "done"]
    assert sorted(done) == sorted(set(done))
    assert set(statuses(project / "grid").values()) == {"done", "empty"}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.only_columns=vcr", "only_columns names 'vcr'"),
        ("--config.reference=three", "the reference 'three' is no variant"),
        ("--config.variants.two.title=a|b", "has the title 'a|b'"),
        ("--config.gpus=one", "expected numbers, each once"),
        ("--config.seeds=(0,0)", "seeds of the grid have 0 twice"),
        ("--config.finetuning.flags=('rate=1',)", "seed0/two/vqa/training cannot be run: --config.rate does not exist"),
        ("--config.pretraining.recipe=configs/none.py", "there is no config file 'configs/none.py'"),
        ("--config.parallel=-2", "parallel is -2"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(project, capsys, flag, words):
    assert ablate(project, flag) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert not (project / "grid").exists()
