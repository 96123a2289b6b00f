"""docs/add_a_task.md as a reader follows it: files and commands are taken from the page."""

import importlib
import json
import pathlib
import pickle
import re
import runpy
import shlex
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import vilbert_jax as vj
from tfds_builders import scenes
from tfds_builders.scenes import vocabulary
from tfds_builders.scenes.scenes_dataset_builder import make_configs
from vilbert_jax import cli
from vilbert_jax.data.examples import ExamplesConfig
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.model import init_params
from vilbert_jax.tasks.task import Task, TaskSource

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add_a_task.md").read_text()
SHORT = (
    "--config.total_steps=6", "--config.eval_every=6", "--config.optimizer.learning_rate=1e-2", "--config.batch_size=8",
    "--config.num_workers=0", "--config.max_regions=8", f"--config.vocab={vocabulary.FILE}",
)  # fmt: skip


def commands(section):
    """The commands that a section of the page prints, as arguments."""
    lines = PAGE.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    found = [line.strip() for line in lines if re.match(r"    (PYTHONPATH=\. )?python ", line)]
    return [shlex.split(line.removeprefix("PYTHONPATH=. "))[1:] for line in found]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few of the embedded pictures and questions under their own names, and once more as an imported store."""
    folder = tmp_path_factory.mktemp("tfds")
    for config in make_configs("tiny", {"train": 12, "validation": 4, "test": 3}, calibration_scenes=20):
        if config.name in ("vqa_tiny", "regions_tiny"):
            builder = scenes.Builder(config=config, data_dir=folder, file_format="array_record", processes=1)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig())
            built = folder / "scenes" / config.name
            built.rename(built.with_name(config.name.replace("tiny", "small")))
    (folder / "region_features").mkdir()
    (folder / "region_features" / "mine").symlink_to(folder / "scenes" / "regions_small")
    return folder


@pytest.fixture(scope="module", autouse=True)
def project(data, tmp_path_factory):
    """A folder like the project's with the files of the page and its lines. Every test runs in it, as the page says."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "mine").mkdir()
    for name, code in re.findall(r"```python\n# (mine/\S+)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TFDS_DATA_DIR", str(data))
        patch.syspath_prepend(str(folder))  # PYTHONPATH=.
        runpy.run_path("mine/lines_of_scenes.py")
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(project, data):
    """The folder after the three commands of "Run it", which started from an untrained model."""
    contract = vj.RegionStore(data / "scenes" / "regions_small").contract
    tokenizer = load_tokenizer(str(vocabulary.FILE))
    stream = vj.StreamConfig(width=16, num_layers=1, num_heads=4, mlp_dim=16)
    model = vj.ViLBERTForPretraining(
        vj.ViLBERTConfig.tiny(
            text=stream, regions=stream, text_co_layers=(0,), region_co_layers=(0,), co_width=16, co_num_heads=4,
            vocab_size=tokenizer.vocab_size, region_feature_dim=contract.feature_dim,
        )
    )  # fmt: skip
    params = init_params(model, jax.random.key(0))
    vj.save_pretrained(project / "vilbert_cc", model, params, tokenizer=tokenizer, contract=contract)
    for script, *flags in commands("Run it"):
        assert run(script, *flags, *SHORT) == 0, script
    return project


def run(script, *flags):
    """Runs a command in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *flags])
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    return exit_info.value.code


def lines(split):
    return [json.loads(line) for line in pathlib.Path(f"mine/lines/{split}.jsonl").read_text().splitlines()]


def write(folder, split, rows):
    (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def perfect(source):
    """Predictions that are the targets."""
    return {"shares": np.stack([source.example(k, np.random.default_rng(0))["target"] for k in range(len(source))])}


def make_task(folder="mine/lines", **settings):
    """The task of the page, on the store of the embedded pictures."""
    page = importlib.import_module("mine.caption_labels")
    shared = {"regions": "region_features/mine", "vocab": str(vocabulary.FILE), "batch_size": 2, "text_length": 20}
    data = ExamplesConfig(annotations=str(folder), **(shared | settings))
    return page.CaptionLabels(data=data, train_split="train")


# --- the commands


def test_the_commands_train_score_and_predict(trained):
    validation, test, labels = lines("validation"), lines("test"), {line["label"] for line in lines("train")}
    best, _ = vj.load_pretrained("runs/captions/best")
    assert best.config.num_vqa_answers == len(labels)
    metrics = json.loads((trained / "scores" / "metrics.json").read_text())
    predictions = json.loads((trained / "scores" / "predictions.json").read_text())
    assert [entry["line"] for entry in predictions] == list(range(1, len(validation) + 1))
    right = [entry["label"] == line["label"] for entry, line in zip(predictions, validation, strict=True)]
    assert metrics["metrics"] == {"accuracy": pytest.approx(100 * np.mean(right))}
    assert metrics["task"] == "mine.caption_labels:CaptionLabels"
    assert (metrics["split"], metrics["examples_of_split"]) == ("validation", len(validation))
    with Image.open(trained / "scores" / "examples.png") as picture:
        assert picture.width > 300
    submitted = json.loads((trained / "submit" / "predictions.json").read_text())
    assert [entry["line"] for entry in submitted] == list(range(1, len(test) + 1))
    assert {entry["label"] for entry in submitted} <= labels
    assert json.loads((trained / "submit" / "metrics.json").read_text())["metrics"] is None  # there are no labels


def test_the_form_of_the_predictions_is_the_printed_one(trained):
    printed = PAGE.split("`submit/predictions.json` is\n")[1].strip().splitlines()[0]
    submitted = json.loads((trained / "submit" / "predictions.json").read_text())
    for entry, other in zip(json.loads(printed.replace(", ...]", "]")), submitted, strict=False):
        assert (entry.keys(), entry["line"]) == (other.keys(), other["line"])


def test_the_commands_on_embedded_data_do_the_same(trained, capfd):
    """Their recipe makes the same model learn from the same lines, so the run above stands for theirs."""
    build, write, finetune, *evaluations = commands("Try it on the embedded data")
    assert build == ["tfds_builders/build.py", "scenes/vqa_small"]
    assert write == ["mine/lines_of_scenes.py"]
    config, workdir, _ = cli.parse([*finetune, *SHORT])
    assert (config.regions, config.init_from) == ("scenes/regions_small", "runs/tiny")
    assert len(cli.build_task(config).open(config.train_split, training=True)) == len(lines("train"))
    workdir.symlink_to(trained / "runs" / "captions")
    before = {
        folder: json.loads((trained / folder / "predictions.json").read_text()) for folder in ("scores", "submit")
    }
    for script, *flags in evaluations:
        assert run(script, *flags, *SHORT) == 0, capfd.readouterr().err
    for folder, predictions in before.items():
        assert json.loads((trained / folder / "metrics.json").read_text())["regions"][0]["store"].count("/scenes/") == 1
        assert json.loads((trained / folder / "predictions.json").read_text()) == predictions


def test_a_setting_of_the_class_is_a_key_of_the_recipe(tmp_path, capfd):
    script, *flags = commands("Run it")[0]
    assert run(script, *flags, *SHORT, "--config.train_split=elsewhere", f"--workdir={tmp_path}") == 2
    assert "elsewhere.jsonl" in capfd.readouterr().err


# --- bad lines


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ("{", "{"),
        ("[1]", "[1]"),
        ("", "''"),
        ('{"image_id": "a", "text": "\xff", "label": "c"}', "\ufffd"),
        ('{"image_id": "a", "text": "b"}', '"text": "b"'),
        ('{"image_id": 7, "text": "b", "label": "c"}', '"image_id": 7'),
        ('{"image_id": "a", "text": "b", "label": ["c"]}', '["c"]'),
        ('{"image_id": "a", "text": "b", "label": null}', "null"),
    ],
    ids=["json", "list", "blank", "latin-1", "no-label", "number", "list-label", "null-label"],
)
def test_a_bad_line_is_one_error_with_file_and_line(bad, found, tmp_path):
    good = json.dumps(lines("train")[0])
    (tmp_path / "train.jsonl").write_text(f"{good}\n{bad}\n{good}\n", "latin-1")
    with pytest.raises(InputError) as caught:
        make_task(tmp_path).open("train", training=True)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'train.jsonl'}, line 2: found ")
    assert found in message
    assert "expected an object with texts image_id, text, label" in message


def test_a_bad_line_ends_the_command_as_printed(tmp_path, capfd):
    printed = next(line.strip() for line in PAGE.splitlines() if line.startswith("    error: "))
    bad = re.search(r"found '(.*)';", printed)[1]
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(lines('train')[0])}\n" * 16 + f"{bad}\n")
    script, *flags = commands("Run it")[0]
    assert run(script, *flags, *SHORT, f"--config.annotations={tmp_path}", f"--workdir={tmp_path / 'run'}") == 2
    assert capfd.readouterr().err == printed.replace("mine/lines", str(tmp_path)) + "\n"


# --- the task itself


def test_an_example_has_its_label_as_target():
    source = make_task().open("train", training=True)
    assert source.labels == tuple(sorted({line["label"] for line in lines("train")}))
    for index in (0, 7):
        example = source.example(index, np.random.default_rng(0))
        assert example["target"].sum() == 1
        assert source.labels[example["target"].argmax()] == lines("train")[index]["label"]
        assert example["token_ids"].shape == (20,)


def test_lines_without_pictures_are_counted_and_keep_their_numbers(tmp_path):
    train = lines("train")
    write(tmp_path, "train", train)
    write(tmp_path, "validation", [train[0] | {"image_id": "nowhere"}, *train[:3]])
    task = make_task(tmp_path)
    source = task.open("validation", training=False)
    assert (len(source), source.examples.coverage.pairs) == (3, 4)
    assert task.score(source, perfect(source)).metrics == {"accuracy": 100}
    expected = [{"line": 2 + k, "label": line["label"]} for k, line in enumerate(train[:3])]
    assert task.submission(source, perfect(source)) == expected


def test_a_label_that_training_does_not_have_is_never_right(tmp_path):
    train = lines("train")
    write(tmp_path, "train", train)
    write(tmp_path, "validation", [train[0], train[1] | {"label": "unheard"}])
    task = make_task(tmp_path)
    source = task.open("validation", training=False)
    scored = task.score(source, perfect(source))
    assert scored.rows.tolist() == [1, 0]
    assert scored.metrics == {"accuracy": 50}


def test_a_submission_is_checked():
    task = make_task()
    source = task.open("test", training=False)
    good = [{"line": k + 1, "label": source.labels[0]} for k in range(len(source))]
    task.check_submission(source, good)
    for bad, expected in (
        (good[:-1], f"lacks 1 of {len(good)} items"),
        ([*good, good[0]], "like entry 0"),
        ([{"line": 1, "label": "unheard"}, *good[1:]], "expected a label of the training lines"),
    ):
        with pytest.raises(InputError, match=expected):
            task.check_submission(source, bad)


def test_an_example_is_shown_with_its_best_guesses():
    task = make_task()
    source = task.open("validation", training=False)
    line = lines("validation")[2]
    shares = np.linspace(0.9, 0.1, len(source.labels), dtype=np.float32)[None].repeat(len(source), axis=0)
    shown = task.show(source, 2, {"shares": shares})
    assert (shown.image_id, shown.text, shown.truth) == (line["image_id"], line["text"], line["label"])
    assert [guess.text for guess in shown.guesses] == list(source.labels[:4])
    assert [guess.right for guess in shown.guesses] == [label == line["label"] for label in source.labels[:4]]


def test_a_source_pickles():
    source = make_task().open("validation", training=False)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_equal(*(s.example(1, np.random.default_rng(0)) for s in (source, again)))


# --- what the page says


@pytest.mark.parametrize(("title", "protocol"), [("task", Task), ("source", TaskSource)])
def test_the_table_has_every_member_of_the_protocol(title, protocol):
    table = PAGE.split(f"| of a {title} | is for |\n|---|---|\n")[1].split("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    own = [name for name in vars(protocol) if not name.startswith("_") or name == "__len__"]
    assert sorted(named) == sorted(own)


def test_the_line_at_the_top_is_one_that_is_read(tmp_path):
    printed = next(line.strip() for line in PAGE.splitlines() if line.startswith('    {"image_id"'))
    (tmp_path / "train.jsonl").write_text(f"{printed}\n")
    read_lines = importlib.import_module("mine.caption_labels").read_lines
    assert read_lines(tmp_path / "train.jsonl", labelled=True) == [json.loads(printed) | {"line": 1}]
