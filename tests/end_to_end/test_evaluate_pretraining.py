"""experiments/evaluate_pretraining.py: the scores of a pre-training, of a run and of any checkpoint by itself."""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import toy_tasks
from test_pretraining_data import WORDS, C, F, Store, ToyRegions, contract
from toy_splits import write_vocab

import vilbert_jax as vj
from vilbert_jax.checkpoints.exporting import export_released
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.model import init_params
from vilbert_jax.paths import named_leaves

ROOT = pathlib.Path(__file__).parents[2]
TEXT = tfds.features.Text()
STREAM = vj.StreamConfig(width=16, num_layers=1, num_heads=2, mlp_dim=16, dropout_rate=0.0, attention_dropout_rate=0.0)
CONFIG = vj.ViLBERTConfig.tiny(
    text=STREAM, regions=STREAM, text_co_layers=(0,), region_co_layers=(0,), co_width=16, co_num_heads=2,
    vocab_size=5 + len(WORDS), region_feature_dim=F, region_target_dim=C, initializer_range=0.5,
)  # fmt: skip
LOSSES = {"token_loss", "region_loss", "alignment_loss"}
ACCURACIES = {"token_accuracy", "region_accuracy", "alignment_accuracy"}
GROUPS = {"words/all", "words/content", "words/colour", "words/shape"}


def captions(count):
    things = ("red circle", "blue square", "red square", "blue circle", "circle")
    return [(f"image{k % len(Store())}", f"the {things[k % 5]} is left of a n{k % 40}") for k in range(count)]


@functools.cache
def params_of(model):
    return jax.jit(functools.partial(init_params, model))(jax.random.key(1))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A captioned data set with regions, and untrained models of several kinds."""
    root = tmp_path_factory.mktemp("pairs")
    splits = {"train": captions(40), "validation": captions(21), "holey": [*captions(9), ("gone", "a circle")]}
    words = {"content_words": {"colour": ["red", "blue"], "shape": ["circle", "square"]}}
    toy_tasks.write_annotations(root, "toy_captions", {"image_id": TEXT, "caption": TEXT}, splits, words)
    ToyRegions(data_dir=root, config="small", file_format="array_record").download_and_prepare()
    tokenizer, here = load_tokenizer(write_vocab(root)), contract()
    features = {"region_target_dim": F, "num_negatives": 6}
    for name, config, features_of in (
        ("pretrained", CONFIG, here),
        ("elsewhere", CONFIG, dataclasses.replace(here, layer="another")),
        ("single_stream", dataclasses.replace(CONFIG, num_streams=1), here),
        ("regression", dataclasses.replace(CONFIG, region_objective="regression", **features), here),
        ("nce", dataclasses.replace(CONFIG, region_objective="nce", **features), here),
    ):
        model = vj.ViLBERTForPretraining(config)
        vj.save_pretrained(root / name, model, params_of(model), tokenizer=tokenizer, contract=features_of)
    tasks = vj.ViLBERTForTasks(CONFIG, heads=("choice", "tokens"))
    vj.save_pretrained(root / "tasks", tasks, params_of(tasks), tokenizer=tokenizer, contract=here)
    leaves = named_leaves(params_of(vj.ViLBERTForPretraining(CONFIG)))
    leaves = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    export_released(root / "released.safetensors", CONFIG, ("tokens", "regions", "alignment"), leaves)
    return root


def command(root, script, *more):
    given = {"annotations": "toy_captions", "regions": "toy_regions/small", "vocab": root / "vocab.txt"}
    given |= {"data_dir": root, "batch_size": 8, "text_length": 12, "max_regions": 5, "num_workers": 0}
    keys = [f"--config.{name}={value}" for name, value in given.items()]
    return [script, f"--config={ROOT / 'configs' / 'tiny.py'}", *keys, *map(str, more)]


def finished(main, argv):
    """What a command printed and its exit code, run in this process on eight devices."""
    printed = io.StringIO()
    with pytest.raises(SystemExit) as exit_info, contextlib.redirect_stdout(printed):
        main["cli"].run(main["main"], argv) if "run" not in main else main["run"](argv)
    return printed.getvalue(), exit_info.value.code


def pretrain(root, workdir, *more):
    model = {"vocab_size": CONFIG.vocab_size, "region_feature_dim": F, "region_target_dim": C, "co_width": 16}
    for stream in ("text", "regions"):
        model |= {f"{stream}.width": 16, f"{stream}.mlp_dim": 16, f"{stream}.num_layers": 1}
    model |= {"text_co_layers": "(0,)", "region_co_layers": "(0,)"}
    keys = [f"--config.model.{name}={value}" for name, value in model.items()]
    short = ("--config.total_steps=2", "--config.log_every=1", f"--workdir={workdir}")
    script = str(ROOT / "experiments" / "pretrain.py")
    return finished(runpy.run_path(script), command(root, script, *keys, *short, *more))


def score(root, output, checkpoint, *more):
    """metrics.json, and what was printed."""
    script = str(ROOT / "experiments" / "evaluate_pretraining.py")
    argv = command(root, script, f"--checkpoint={checkpoint}", f"--output={output}", *more)
    printed, code = finished(runpy.run_path(script), argv)
    assert code == 0
    return json.loads((output / "metrics.json").read_text()), printed


def refused(capfd, root, output, *more):
    """The one message of a command that cannot work."""
    script = str(ROOT / "experiments" / "evaluate_pretraining.py")
    _, code = finished(runpy.run_path(script), command(root, script, f"--output={output}", *more))
    assert code == 2
    assert not (output / "metrics.json").exists()
    message = capfd.readouterr().err
    assert message.count("error: ") == 1
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A short run on a share of the pairs, and what it printed."""
    workdir = tmp_path_factory.mktemp("run")
    printed, code = pretrain(root, workdir, "--config.train_split=train[:25%]")
    assert code == 0
    return workdir, printed


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory):
    """metrics.json of an untrained model, nothing set."""
    return score(root, tmp_path_factory.mktemp("plain"), root / "pretrained")[0]


def last_scores(workdir):
    """Of metrics.jsonl, under the names of metrics.json."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = {name: value for row in rows for name, value in row.items() if name.startswith("eval/")}
    return {name.removeprefix("eval/").removeprefix("validation/"): value for name, value in found.items()}


def test_the_scores_of_a_run_are_those_that_it_logged(root, trained, tmp_path):
    workdir, told = trained
    found, printed = score(root, tmp_path / "deep" / "er", workdir)
    logged = last_scores(workdir)
    names = LOSSES | ACCURACIES | GROUPS
    assert logged.keys() == names | {f"blind/{name}" for name in names}
    assert found["metrics"].keys() == logged.keys() | {"majority/region_accuracy"}
    assert {name: found["metrics"][name] for name in logged} == pytest.approx(logged, rel=1e-6)
    table = printed[printed.index("held-out pairs") : printed.index(str(tmp_path))]
    assert "majority class" in table
    assert table in told
    assert found["checkpoint"]["kind"] == "checkpoint of this project of step 2"


def test_metrics_json_says_what_was_scored(root, tmp_path):
    found, _ = score(root, tmp_path, root / "pretrained", "--split=holey", "--config.seed=3")
    assert found["settings"] == {
        "masked_losses_on": "aligned", "region_masking": "hide_overlaps", "region_mask_rate": 0.15,
        "token_mask_rate": 0.15, "max_masked_tokens": 8, "mismatch_rate": 0.5, "region_targets": "class_probs",
        "num_nce_negatives": 0, "seed": 3,
    }  # fmt: skip
    assert found["split"] == "holey"
    assert (found["examples_of_split"], found["examples_missing"]) == (10, 1)
    assert found["annotations"] == "toy_captions/1.0.0"
    assert found["regions"][0]["images"] == len(Store())
    assert found["regions"][0]["fingerprint"].startswith("sha256:")
    assert (found["text_length"], found["max_regions"]) == (12, 5)
    assert len(found["checkpoint"]["parameters"]) == 32


def test_every_pair_counts_once_whatever_the_mesh_and_the_batch(root, plain, tmp_path):
    """21 pairs: in 3 batches of 8, and in 6 of 4, which are the 3 that were asked for on a mesh of 2 shards."""
    flags = ("--config.batch_size=3", "--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.mesh.tensor=4")
    other, _ = score(root, tmp_path, root / "pretrained", *flags)
    assert other["metrics"] == pytest.approx(plain["metrics"], rel=2e-5)
    assert {**other, "metrics": 0} == {**plain, "metrics": 0}


def test_another_masking_is_another_test_of_the_same_model(root, plain, tmp_path):
    released, _ = score(root, tmp_path, root / "pretrained", "--config.region_masking=released")
    assert plain["metrics"]["region_loss"] != pytest.approx(released["metrics"]["region_loss"], rel=1e-3)
    assert released["settings"] == plain["settings"] | {"region_masking": "released"}
    for same in ("rows", "regions", "checkpoint"):
        assert plain[same] == released[same]
    for blind in ("blind/token_loss", "blind/words/all", "blind/alignment_loss"):  # the same captions and words
        assert plain["metrics"][blind] == pytest.approx(released["metrics"][blind], rel=1e-5)


def test_a_released_file_and_its_converted_folder_have_the_same_scores(root, tmp_path):
    released = root / "released.safetensors"
    vj.save_pretrained(tmp_path / "converted", *vj.load_pretrained(released))
    found = [score(root, tmp_path / p.name / "out", p)[0] for p in (released, tmp_path / "converted")]
    assert found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["checkpoint"]["kind"] == "released ViLBERT (pre-training)"


def test_a_single_stream_is_scored_on_the_same_pairs(root, plain, tmp_path):
    found, _ = score(root, tmp_path, root / "single_stream")
    assert found["metrics"].keys() == plain["metrics"].keys()
    assert found["metrics"]["majority/region_accuracy"] == plain["metrics"]["majority/region_accuracy"]
    assert found["metrics"]["region_loss"] != plain["metrics"]["region_loss"]
    assert {**found, "metrics": 0, "checkpoint": 0} == {**plain, "metrics": 0, "checkpoint": 0}


def test_a_model_that_predicts_features_has_no_accuracy_of_classes(root, tmp_path):
    found, printed = score(root, tmp_path, root / "regression")
    assert found["settings"]["region_targets"] == "features"
    names = LOSSES | GROUPS | ACCURACIES - {"region_accuracy"}
    assert found["metrics"].keys() == names | {f"blind/{name}" for name in names}
    assert "masked regions" not in printed
    assert "alignment accuracy" in printed


def test_negatives_from_the_batch_allow_no_other_batch_size(root, tmp_path, capfd):
    message = refused(capfd, root, tmp_path, f"--checkpoint={root / 'nce'}", "--config.batch_size=12")
    assert "batch_size 12 must be a multiple of data x fsdp = 8" in message
    found, _ = score(root, tmp_path, root / "nce")
    assert (found["settings"]["num_nce_negatives"], found["settings"]["batch_size"]) == (6, 8)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["--checkpoint is missing"]),
        (["--checkpoint={root}/tasks"], ["has no alignment, regions head, only choice, tokens", "evaluate.py"]),
        (["--checkpoint={root}/absent.bin"], ["there is nothing at"]),
        (["--checkpoint={root}/pretrained", "--config.vocab={root}/other.txt"], ["another vocabulary", "pretrained"]),
        (["--checkpoint={root}/elsewhere"], ["other region features", "layer", "allow_other_features"]),
        (
            ["--checkpoint={root}/released.safetensors", "--config.vocab={root}/short.txt"],
            ["model.vocab_size is 54, the size of the vocabulary is 53", "keeps its sizes"],
        ),
        (["--checkpoint={root}/pretrained", "--split=nowhere"], ["no split 'nowhere'"]),
        (["--checkpoint={root}/pretrained", "--config.masked_losses_on=none"], ["use one of all, aligned"]),
        (["--checkpoint={root}/pretrained", "--output={root}/vocab.txt"], ["vocab.txt is a file"]),
    ],
    ids=["nothing", "no-heads", "absent", "vocabulary", "features", "sizes", "split", "losses", "output"],
)
def test_what_cannot_be_scored_is_refused(root, tmp_path, capfd, flags, expected):
    words = (root / "vocab.txt").read_text().split()
    (root / "other.txt").write_text("\n".join([*words[:5], *words[:4:-1]]) + "\n")
    (root / "short.txt").write_text("\n".join(words[:-1]) + "\n")
    message = refused(capfd, root, tmp_path, *(flag.replace("{root}", str(root)) for flag in flags))
    for words in expected:
        assert words in message


def test_other_features_are_scored_where_that_is_asked_for(root, plain, tmp_path):
    allowed, _ = score(root, tmp_path, root / "elsewhere", "--config.allow_other_features=True")
    assert allowed["metrics"] == plain["metrics"]


@pytest.mark.parametrize("split", ["train", "train[:50%]"])
def test_a_run_on_a_share_of_the_pairs_goes_on_with_no_other(root, trained, capfd, split):
    workdir, _ = trained
    coverage, before = json.loads((workdir / "coverage.json").read_text()), (workdir / "metrics.jsonl").read_bytes()
    assert {name: facts["pairs_used"] for name, facts in coverage.items()} == {"train[:25%]": 10, "validation": 21}
    _, code = pretrain(root, workdir, f"--config.train_split={split}")
    assert code == 2
    message = capfd.readouterr().err
    assert "pairs" in message
    assert "--workdir" in message
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert json.loads((workdir / "coverage.json").read_text()) == coverage
