"""experiments/evaluate.py: from checkpoints of every kind to metrics.json and predictions.json."""

import dataclasses
import json
import os
import pathlib
import pickle
import runpy
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_tasks

import vilbert_jax as vj
from vilbert_jax.checkpoints.exporting import export_released
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.model import init_params
from vilbert_jax.paths import named_leaves

ROOT = pathlib.Path(__file__).parents[2]
EVALUATE = str(ROOT / "experiments" / "evaluate.py")
STREAM = vj.StreamConfig(width=8, num_layers=2, num_heads=2, mlp_dim=8)
CONFIG = vj.ViLBERTConfig.tiny(
    text=STREAM, regions=STREAM, text_co_layers=(0, 1), region_co_layers=(0, 1), co_width=8, co_num_heads=2,
    vocab_size=5 + len(toy_tasks.WORDS), region_feature_dim=toy_tasks.FEATURE_DIM, region_target_dim=4,
    num_vqa_answers=len(toy_tasks.ANSWERS), initializer_range=0.5,
)  # fmt: skip
SETS = {
    "vqa": "toy_vqa", "vcr_qa": "toy_choice", "vcr_qar": "toy_choice", "refcoco_plus": "toy_expressions",
    "flickr30k": "toy_retrieval", "zero_shot_flickr30k": "toy_retrieval",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The toy data, and untrained models: one with all task heads, one of pre-training."""
    root = tmp_path_factory.mktemp("toys")
    toy_tasks.write_all(root)
    facts = {"tokenizer": load_tokenizer(root / "vocab.txt"), "contract": toy_tasks.CONTRACT}
    model = vj.ViLBERTForTasks(CONFIG, heads=("vqa", "choice", "grounding"))
    params = init_params(model, jax.random.key(1))
    vj.save_pretrained(root / "tasks", model, params, outputs={"vqa": toy_tasks.ANSWERS}, **facts)
    vj.save_pretrained(root / "silent", model, params, **facts)
    single = vj.ViLBERTForTasks(dataclasses.replace(CONFIG, num_streams=1), heads=("vqa", "choice"))
    params = init_params(single, jax.random.key(4))
    vj.save_pretrained(root / "single", single, params, outputs={"vqa": toy_tasks.ANSWERS}, **facts)
    pretraining = vj.ViLBERTForPretraining(CONFIG)
    params = init_params(pretraining, jax.random.key(2))
    vj.save_pretrained(root / "pretrained", pretraining, params, **facts)
    heads = ("vqa", "choice", "grounding", "tokens", "regions", "alignment")
    released = vj.ViLBERTForTasks(CONFIG, heads=heads)
    leaves = {path: np.asarray(x) for path, x in named_leaves(init_params(released, jax.random.key(3))).items()}
    export_released(root / "released.safetensors", CONFIG, heads, leaves)
    return root


def flags(root, recipe, output, *more):
    given = {"annotations": SETS[recipe], "regions": "toy_regions", "vocab": root / "vocab.txt", "data_dir": root}
    given |= {"batch_size": 3, "text_length": 16, "max_regions": 3, "num_workers": 0}
    if recipe in ("vcr_qa", "vcr_qar", "refcoco_plus"):
        given["given_regions"] = "toy_given"
    keys = [f"--config.{name}={value}" for name, value in given.items()]
    return [EVALUATE, f"--config={ROOT / 'configs' / recipe}.py", *keys, f"--output={output}", *map(str, more)]


def evaluate(root, recipe, output, *more):
    """Runs the command in this process, on eight devices; returns metrics.json and predictions.json."""
    main = runpy.run_path(EVALUATE)
    with pytest.raises(SystemExit) as exit_info:
        main["run"](flags(root, recipe, output, *more))
    assert exit_info.value.code == 0
    return [json.loads(pathlib.Path(output, name).read_text()) for name in ("metrics.json", "predictions.json")]


def refused(capfd, root, recipe, output, *more):
    """The one message of a command that cannot work."""
    main = runpy.run_path(EVALUATE)
    with pytest.raises(SystemExit) as exit_info:
        main["run"](flags(root, recipe, output, *more))
    assert exit_info.value.code == 2
    assert not pathlib.Path(output, "metrics.json").exists()
    message = capfd.readouterr().err
    assert message.count("error: ") == 1
    assert "Traceback" not in message
    return message


CASES = [
    ("vqa", "tasks", "validation", 3), ("vcr_qa", "tasks", "train", 2), ("vcr_qar", "tasks", "train", 2),
    ("refcoco_plus", "tasks", "validation", 3), ("flickr30k", "tasks", "train", 8),
    ("zero_shot_flickr30k", "pretrained", "train", 8),
]  # fmt: skip


ONE_DEVICE = """
import json, runpy, sys
for argv in json.loads(sys.argv[1]):
    main = runpy.run_path(argv[0])
    try:
        main["run"](argv)
    except SystemExit as done:
        assert done.code == 0
"""


@pytest.fixture(scope="module")
def on_one_device(root, tmp_path_factory):
    """The folder of the cases' results, from one process that sees one device."""
    folder = tmp_path_factory.mktemp("one_device")
    commands = [flags(root, *_case(root, folder, *case)) for case in CASES]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", ONE_DEVICE, json.dumps(commands)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def _case(root, folder, recipe, checkpoint, split, count):
    del count
    return recipe, folder / recipe, f"--checkpoint={root / checkpoint}", f"--split={split}"


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_one_device_and_eight_give_the_same_numbers(root, tmp_path, on_one_device, case):
    metrics, predictions = evaluate(root, *_case(root, tmp_path, *case))
    recipe, _, split, count = case
    assert (tmp_path / recipe / "metrics.json").read_text() == (on_one_device / recipe / "metrics.json").read_text()
    assert len(predictions) == count
    assert metrics["examples_missing"] == 0
    assert metrics["split"] == split
    assert len(metrics["checkpoint"]["parameters"]) == 32
    assert all(np.isfinite(value) for value in metrics["metrics"].values())
    assert (tmp_path / recipe / "examples.png").stat().st_size > 10_000


@pytest.mark.parametrize(("recipe", "count"), [("vqa", 3), ("flickr30k", 8)])
def test_a_single_stream_model_is_evaluated_alike(root, tmp_path, recipe, count):
    split = "train" if recipe == "flickr30k" else "validation"
    metrics, predictions = evaluate(root, recipe, tmp_path, f"--checkpoint={root / 'single'}", f"--split={split}")
    assert len(predictions) == count
    assert all(np.isfinite(value) for value in metrics["metrics"].values())
    assert (tmp_path / "examples.png").stat().st_size > 10_000


def test_predictions_are_one_answer_for_each_question(root, tmp_path):
    _, predictions = evaluate(root, "vqa", tmp_path, f"--checkpoint={root / 'tasks'}", "--split=validation")
    assert [entry["question_id"] for entry in predictions] == [21, 22, 23]
    assert {entry["answer"] for entry in predictions} <= set(toy_tasks.ANSWERS)


def test_a_split_without_labels_is_predicted_and_not_scored(root, tmp_path, capfd):
    metrics, predictions = evaluate(root, "vqa", tmp_path, f"--checkpoint={root / 'tasks'}", "--split=test")
    assert metrics["metrics"] is None
    assert [entry["question_id"] for entry in predictions] == [31, 32]
    assert "no labels" in capfd.readouterr().out


def test_the_leaderboard_file_of_vcr_is_written_when_both_passes_are_there(root, tmp_path):
    checkpoint = (f"--checkpoint={root / 'tasks'}", "--split=test")
    evaluate(root, "vcr_qa", tmp_path / "qa", *checkpoint)
    assert not (tmp_path / "qa" / "leaderboard.csv").exists()
    given = f"--config.answer_predictions={tmp_path / 'qa' / 'predictions.json'}"
    evaluate(root, "vcr_qar", tmp_path / "qar", *checkpoint, given)
    header, row = (tmp_path / "qar" / "leaderboard.csv").read_text().splitlines()
    assert header.split(",")[:2] == ["annot_id", "answer_0"]
    assert len(row.split(",")) == 21
    assert row.startswith("test-0,")


def test_two_passes_of_vcr_give_their_joint_accuracy(root, tmp_path):
    checkpoint = (f"--checkpoint={root / 'tasks'}", "--split=train")
    apart, _ = evaluate(root, "vcr_qa", tmp_path / "qa", *checkpoint)
    given = f"--config.answer_predictions={tmp_path / 'qa' / 'predictions.json'}"
    joined, _ = evaluate(root, "vcr_qar", tmp_path / "qar", *checkpoint, given)
    together, _ = evaluate(root, "vcr_qa", tmp_path / "both", *checkpoint, "--config.passes=both")
    assert together["metrics"] == apart["metrics"] | joined["metrics"]


def test_missing_pictures_are_counted_and_refused_until_asked_for(root, tmp_path, capfd):
    more = (f"--checkpoint={root / 'tasks'}", "--split=holey")
    message = refused(capfd, root, "vqa", tmp_path, *more)
    assert "has 2 rows" in message
    assert "no image for 1 of them" in message
    metrics, predictions = evaluate(root, "vqa", tmp_path, *more, "--config.allow_missing=True")
    assert (metrics["examples_of_split"], metrics["examples_missing"]) == (2, 1)
    assert len(predictions) == 1


def test_a_released_file_needs_the_list_of_its_answers(root, tmp_path, capfd):
    more = (f"--checkpoint={root / 'released.safetensors'}", "--split=validation")
    assert "--config.answer_labels" in refused(capfd, root, "vqa", tmp_path, *more)
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(list(toy_tasks.ANSWERS), protocol=0))
    (tmp_path / "labels.json").write_text(json.dumps({answer: k for k, answer in enumerate(toy_tasks.ANSWERS)}))
    scores = [
        evaluate(root, "vqa", tmp_path / kind, *more, f"--config.answer_labels={tmp_path / f'labels.{kind}'}")[1]
        for kind in ("pkl", "json")
    ]
    assert scores[0] == scores[1]
    short = tmp_path / "short.json"
    short.write_text(json.dumps(toy_tasks.ANSWERS[:3]))
    message = refused(capfd, root, "vqa", tmp_path, *more, f"--config.answer_labels={short}")
    assert "5" in message
    assert "3" in message


def test_a_released_file_and_its_converted_folder_give_the_same_predictions(root, tmp_path):
    model, params = vj.load_pretrained(root / "released.safetensors", heads=("choice",))
    vj.save_pretrained(tmp_path / "converted", model, params)
    found = [
        evaluate(root, "vcr_qa", tmp_path / source.name / "out", f"--checkpoint={source}", "--split=train")[1]
        for source in (root / "released.safetensors", tmp_path / "converted")
    ]
    assert found[0] == found[1]


def test_a_folder_that_cannot_take_results_is_refused_before_anything_runs(root, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    message = refused(capfd, root, "vqa", tmp_path / "file" / "below", "--checkpoint=absent")
    assert f"{tmp_path / 'file'} is a file" in message


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_results_of_two_evaluations_are_never_mixed(root, tmp_path):
    checkpoint = f"--checkpoint={root / 'tasks'}"
    evaluate(root, "vqa", tmp_path, checkpoint, "--split=validation")
    main = runpy.run_path(EVALUATE)
    main["main"].__globals__.update(draw_results=interrupted)
    with pytest.raises(SystemExit):
        main["run"](flags(root, "vqa", tmp_path, checkpoint, "--split=test"))
    assert [entry["question_id"] for entry in json.loads((tmp_path / "predictions.json").read_text())] == [31, 32]
    assert not (tmp_path / "metrics.json").exists()


def test_a_checkpoint_that_does_not_belong_to_the_data_is_refused(root, tmp_path, capfd):
    silent = (f"--checkpoint={root / 'silent'}", "--split=validation")
    assert "does not say which answer" in refused(capfd, root, "vqa", tmp_path, *silent)
    (tmp_path / "turned.json").write_text(json.dumps(toy_tasks.ANSWERS[::-1]))
    turned = f"--config.answer_labels={tmp_path / 'turned.json'}"
    message = refused(capfd, root, "vqa", tmp_path, f"--checkpoint={root / 'tasks'}", "--split=validation", turned)
    assert "not the same" in message
    assert "'zero'" in message
    message = refused(capfd, root, "vqa", tmp_path, f"--checkpoint={root / 'pretrained'}", "--split=validation")
    assert "has no vqa head" in message
    assert "finetune.py" in message
    assert "--checkpoint is missing" in refused(capfd, root, "vqa", tmp_path, "--split=validation")


def test_finished_scores_of_all_pairs_serve_for_folds_too(root, tmp_path):
    more = (f"--checkpoint={root / 'tasks'}", "--split=train")
    whole, _ = evaluate(root, "flickr30k", tmp_path, *more)
    before = (tmp_path / "scores" / "scores.json").stat().st_mtime_ns
    folds, _ = evaluate(root, "flickr30k", tmp_path, *more, "--config.num_folds=2")
    assert folds["metrics"].items() > whole["metrics"].items()
    assert (tmp_path / "scores" / "scores.json").stat().st_mtime_ns == before


def test_finished_scores_of_all_pairs_belong_to_one_checkpoint(root, tmp_path, capfd):
    evaluate(root, "flickr30k", tmp_path, f"--checkpoint={root / 'tasks'}", "--split=train")
    (tmp_path / "metrics.json").unlink()
    other = (f"--checkpoint={root / 'pretrained'}", "--split=train", "--config.head=alignment")
    message = refused(capfd, root, "flickr30k", tmp_path, *other)
    assert "--output" in message or "folder" in message
