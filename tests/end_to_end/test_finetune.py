"""experiments/finetune.py: from a pre-training checkpoint to the best parameters, stopped, resumed and refused."""

import contextlib
import dataclasses
import io
import json
import pathlib
import runpy
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
import toy_tasks

import vilbert_jax as vj
from vilbert_jax.checkpoints.folder import read_contents
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.model import init_params

ROOT = pathlib.Path(__file__).parents[2]
FINETUNE = str(ROOT / "experiments" / "finetune.py")
STREAM = vj.StreamConfig(width=8, num_layers=1, num_heads=2, mlp_dim=8)
CONFIG = vj.ViLBERTConfig.tiny(
    text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,), co_width=8, co_num_heads=2,
    vocab_size=5 + len(toy_tasks.WORDS), region_feature_dim=toy_tasks.FEATURE_DIM, region_target_dim=4,
    initializer_range=0.5,
)  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The toy data, and an untrained model of pre-training."""
    root = tmp_path_factory.mktemp("toys")
    toy_tasks.write_all(root)
    model = vj.ViLBERTForPretraining(CONFIG)
    facts = {"tokenizer": load_tokenizer(root / "vocab.txt"), "contract": toy_tasks.CONTRACT}
    vj.save_pretrained(root / "pretrained", model, init_params(model, jax.random.key(1)), **facts)
    return root


def finetune(root, workdir, *flags, recipe="vqa", annotations="toy_vqa"):
    """Runs the command in this process, without its curves, which have tests of their own."""
    given = {"annotations": annotations, "regions": "toy_regions", "vocab": root / "vocab.txt", "data_dir": root}
    given |= {"batch_size": 8, "text_length": 16, "max_regions": 3, "num_workers": 0, "train_split": "train"}
    given |= {
        "init_from": root / "pretrained",
        "total_steps": 4,
        "checkpoint_every": 2,
        "eval_every": 2,
        "log_every": 1,
    }
    given |= {"eval_split": "validation", "keep_checkpoints": 3}
    keys = [f"--config.{name}={value}" for name, value in given.items()]
    main = runpy.run_path(FINETUNE)
    main["main"].__globals__.update(write_report=lambda *_: None)
    arguments = ["finetune.py", f"--config={ROOT / 'configs' / recipe}.py", *keys, f"--workdir={workdir}", *flags]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.raises(SystemExit) as exit_info,
    ):
        main["cli"].run(main["main"], arguments)
    return Outcome(exit_info.value.code or 0, out.getvalue(), err.getvalue())


def params_of(path):
    source = open_source(path)
    return source.read({name: np.empty(shape, np.float32) for name, shape in source.shapes.items()})


def logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A run of four steps."""
    workdir = tmp_path_factory.mktemp("run") / "vqa"
    outcome = finetune(root, workdir, "--config.optimizer.learning_rate=0.01")
    assert outcome.code == 0, outcome.err
    return workdir, outcome.out


def test_a_run_starts_from_pretraining_with_a_fresh_head_and_keeps_its_best(finished, root):
    workdir, said = finished
    table = {line.split("  ")[1]: line.split("  ")[-1] for line in said.splitlines() if " M  " in line}
    assert {part for part, origin in table.items() if origin == "fresh"} == {"vqa head"}
    assert "text layers" in table
    scores = {
        line["step"]: line["eval/validation/accuracy"] for line in logged(workdir) if "eval/validation/accuracy" in line
    }
    assert list(scores) == [2, 4]
    (best,) = (workdir / "best").iterdir()
    assert scores[int(best.name)] == max(scores.values())
    source = open_source(workdir)
    assert source.outputs == {"vqa": list(toy_tasks.ANSWERS)}
    assert source.config.num_vqa_answers == len(toy_tasks.ANSWERS)
    assert source.features == toy_tasks.CONTRACT.to_json()
    assert source.trained_for == {
        "task": "vilbert_jax.tasks.vqa:VQA", "text_length": 16, "truncation": "keep_sep", "max_regions": 3,
        "task_token": None, "whole_image": True,
    }  # fmt: skip
    assert "init_from" in source.provenance
    assert f"starting from {root / 'pretrained'}, a checkpoint of this project" in said


def test_a_run_that_was_stopped_ends_with_the_same_parameters(finished, root, tmp_path):
    workdir, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "4")
    shutil.rmtree(copy / "best" / "4", ignore_errors=True)
    outcome = finetune(root, copy, "--config.optimizer.learning_rate=0.01")
    assert outcome.code == 0, outcome.err
    assert "starting from" not in outcome.out
    before, after = (params_of(folder / "checkpoints" / "4") for folder in (workdir, copy))
    assert all(np.array_equal(before[path], after[path]) for path in before)
    earlier = params_of(workdir / "checkpoints" / "2")
    assert any(not np.array_equal(before[path], earlier[path]) for path in before)


@pytest.mark.parametrize(
    ("recipe", "annotations", "head", "flags"),
    [
        ("vcr_qa", "toy_choice", "choice", ["--config.eval_split=train"]),
        ("refcoco_plus", "toy_expressions", "grounding", []),
        ("flickr30k", "toy_retrieval", "choice", ["--config.eval_split=train"]),
    ],
)
def test_every_recipe_trains_its_head(root, tmp_path, recipe, annotations, head, flags):
    steps = ["--config.total_steps=1", "--config.optimizer.learning_rate=0.01"]
    if recipe != "flickr30k":
        steps.append("--config.given_regions=toy_given")
    outcome = finetune(root, tmp_path / "run", *steps, *flags, recipe=recipe, annotations=annotations)
    assert outcome.code == 0, outcome.err
    assert open_source(tmp_path / "run").heads == (head,)
    (scores,) = [line for line in logged(tmp_path / "run") if any(key.startswith("eval/") for key in line)]
    assert all(np.isfinite(value) for value in scores.values())


def test_a_single_stream_brings_its_model_and_starts_from_nothing_too(root, tmp_path):
    config = dataclasses.replace(CONFIG, num_streams=1)
    model = vj.ViLBERTForPretraining(config)
    facts = {"tokenizer": load_tokenizer(root / "vocab.txt"), "contract": toy_tasks.CONTRACT}
    vj.save_pretrained(tmp_path / "single", model, init_params(model, jax.random.key(1)), **facts)
    outcome = finetune(root, tmp_path / "run", "--config.total_steps=1", f"--config.init_from={tmp_path / 'single'}")
    assert outcome.code == 0, outcome.err
    assert open_source(tmp_path / "run").config == dataclasses.replace(config, num_vqa_answers=len(toy_tasks.ANSWERS))
    assert "joint layers" in outcome.out

    fields = {"num_streams": 1, "vocab_size": CONFIG.vocab_size, "region_feature_dim": CONFIG.region_feature_dim}
    fields |= {"text.num_layers": 1, "text.width": 12}
    flags = [f"--config.model.{name}={value}" for name, value in fields.items()]
    outcome = finetune(root, tmp_path / "scratch", "--config.total_steps=1", "--config.init_from=", *flags)
    assert outcome.code == 0, outcome.err
    assert open_source(tmp_path / "scratch").config.num_streams == 1


def refused(outcome, *words):
    assert outcome.code == 2, outcome.out
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize("answers", [toy_tasks.ANSWERS[::-1], toy_tasks.ANSWERS[:3]], ids=["turned", "fewer"])
def test_a_head_trained_on_other_answers_is_refused(finished, root, tmp_path, answers):
    workdir, _ = finished
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    flags = (f"--config.init_from={workdir}", f"--config.answer_labels={tmp_path / 'answers.json'}")
    words = ("5 answers", f"the data {len(answers)}", "--config.fresh_heads=vqa")
    refused(finetune(root, tmp_path / "run", *flags), *words)
    assert not (tmp_path / "run").exists()


def test_a_workdir_is_not_continued_with_something_else(finished, root):
    workdir, _ = finished
    refused(finetune(root, workdir, "--config.rules=2017"), "rules", "--workdir")
    refused(finetune(root, workdir, "--config.blank_pictures=True"), "blank_pictures", "--workdir")
    assert read_contents(workdir / "checkpoints" / "4").identity["outputs"] == {"vqa": list(toy_tasks.ANSWERS)}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.task=vilbert_jax.tasks.vqa:None"], ["cannot be loaded"]),
        (["--config.train_split=training"], ["no split 'training'"]),
        (["--config.text_length=999"], ["text_length is 999"]),
        (["--config.regions=nowhere"], ["no region store 'nowhere'"]),
        (["--config.init_from=nowhere/at/all"], ["nowhere/at/all"]),
        (["--config.fresh_heads=choice"], ["fresh names choice"]),
    ],
)
def test_what_does_not_fit_is_one_message_before_anything_is_written(root, tmp_path, flags, words):
    refused(finetune(root, tmp_path / "run", *flags), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["train_split", "eval_split"])
def test_a_split_without_labels_is_refused_before_training(root, tmp_path, key):
    outcome = finetune(root, tmp_path / "run", f"--config.{key}=test")
    assert outcome.code == 2
    assert "split 'test' of 'toy_vqa' has rows without labels" in outcome.err
    assert not (tmp_path / "run").exists()
