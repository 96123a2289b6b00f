"""experiments/train_detector.py: from drawn pictures to a saved detector, stopped, resumed and refused."""

import contextlib
import io
import json
import pathlib
import re
import runpy
import shutil
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from tfds_builders import scenes
from tfds_builders.scenes import classifier, scenes_dataset_builder, world
from vilbert_jax.checkpoints.detectors import load_detector
from vilbert_jax.data.objects import ObjectsConfig
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.detector.anchors import make_anchors
from vilbert_jax.detector.preparation import prepare, stack
from vilbert_jax.detector.selection import Confident
from vilbert_jax.tasks import detection

ROOT = pathlib.Path(__file__).parents[2]
SMALLER = {
    "blocks": "(1,1,1,1)", "stem_width": 4, "bottleneck_width": 2, "res2_width": 4, "rpn_width": 8,
    "class_embedding_width": 4, "attribute_width": 8, "max_candidates": 32, "max_proposals": 8, "pooling_resolution": 4,
}  # fmt: skip
COUNTS = {"train": 16, "validation": 8, "test": 1}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few drawn pictures, and what is in them."""
    root = tmp_path_factory.mktemp("data")
    for config in scenes_dataset_builder.make_configs("tiny", COUNTS):
        if config.name in ("pictures_tiny", "objects_tiny"):
            made = scenes.Builder(config=config, data_dir=root, file_format="array_record", processes=1)
            made.download_and_prepare()
    return root


def train(data, workdir, *flags):
    """Runs the command in this process, without its curves, which have tests of their own."""
    given = {"data_dir": data, "pictures": "scenes/pictures_tiny", "objects": "scenes/objects_tiny", "batch_size": 8}
    given |= {"total_steps": 4, "checkpoint_every": 2, "eval_every": 4, "log_every": 1, "num_shown": 2}
    given |= {f"detector.{name}": value for name, value in SMALLER.items()}
    keys = [f"--config.{name}={value}" for name, value in given.items()]
    main = runpy.run_path(str(ROOT / "experiments" / "train_detector.py"))
    built = types.SimpleNamespace(ensure=lambda *_: None)  # the real one knows the public sizes alone
    main["main"].__globals__.update(write_report=lambda *_: None, embedded=built)
    recipe = f"--config={ROOT / 'configs' / 'detector_scenes.py'}"
    arguments = ["train_detector.py", recipe, *keys, f"--workdir={workdir}", *flags]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.raises(SystemExit) as exit_info,
    ):
        main["cli"].run(main["main"], arguments)
    return Outcome(exit_info.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of four steps."""
    workdir = tmp_path_factory.mktemp("run") / "detector"
    outcome = train(data, workdir)
    assert outcome.code == 0, outcome.err
    return workdir, outcome.out


def logged(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_measures_and_says_what_it_reaches(finished):
    workdir, said = finished
    rows = [row for row in logged(workdir) if "train/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["train/loss"] == pytest.approx(sum(row[f"train/{name}"] for name in detection.LOSSES), rel=1e-5)
    (scores,) = [row for row in logged(workdir) if "eval/validation/recall" in row]
    assert 0 <= scores["eval/validation/recall"] <= 100
    assert f"{scores['eval/validation/recall']:8.1f} %" in said
    assert "norms measured on 8 pictures" in said
    with Image.open(workdir / "detections.png") as sheet:
        assert sheet.width > 1000


def test_a_run_that_was_stopped_ends_with_the_same_parameters(finished, data, tmp_path):
    workdir, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "4")
    (copy / "detector.safetensors").unlink()
    outcome = train(data, copy)
    assert outcome.code == 0, outcome.err
    assert "norms measured" not in outcome.out
    assert (workdir / "metrics.jsonl").read_bytes() == (copy / "metrics.jsonl").read_bytes()
    before, after = (load_detector(folder / "detector.safetensors") for folder in (workdir, copy))
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_the_saved_file_scores_what_the_run_scored_on_pictures_that_are_prepared(finished, data):
    """From file to boxes the way that extraction goes, and the way that training went."""
    workdir, _ = finished
    detector = load_detector(workdir / "detector.safetensors")
    assert detector.class_names == classifier.CLASS_NAMES
    assert detector.attribute_names == world.TEXTURES
    assert detector.family == "faster_rcnn small, scenes"
    np.testing.assert_array_equal(detector.params["proposal_head"]["anchors"], make_anchors((36.0, 66.0)))

    names = {"pictures": "scenes/pictures_tiny", "objects": "scenes/objects_tiny"}
    source = ObjectsConfig(data_dir=str(data), max_things=5, batch_size=8, **names).open("validation")
    batch = Dataset(source, batch_size=8, seed=0, shuffle=False)[0]
    flavour = detector.model.config.flavour
    prepared = stack([prepare(source.picture(index), flavour) for index in range(len(source))])
    jax.tree.map(np.testing.assert_array_equal, prepared, detection.pictures_of(batch))

    predict = jax.jit(detection.make_predict_fn(detector.model, Confident(min_boxes=5, max_boxes=12)))
    found = {name: np.asarray(array) for name, array in predict(detector.params, batch).items()}
    scores = detection.make_score_fn(source)(found)
    (row,) = [row for row in logged(workdir) if "eval/validation/recall" in row]
    # On eight devices sums are added in another order, so that one box or two may be others.
    assert scores["recall"] == pytest.approx(row["eval/validation/recall"], abs=7)
    assert scores["boxes"] == pytest.approx(row["eval/validation/boxes"], abs=0.5)
    assert scores["boxes"] >= 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.detector.num_classes=71",), "detector.num_classes is 71, the data have 72"),
        (("--config.detector.flavour.short_side=96",), "the pictures are 256 x 192, and the flavour would resize them"),
        (("--config.anchor_sides=(36.0,)",), r"anchors have shape \(1, 4\); the detector has \(2, 4\)"),
        (("--config.max_things=1",), "set --config.max_things"),
        (("--config.num_anchor_samples=0",), "num_anchor_samples is 0"),
    ],
)
def test_what_does_not_fit_is_one_message(data, tmp_path, finished, flags, message):
    outcome = train(data, tmp_path / "run", *flags)
    assert outcome.code == 2
    assert re.search(message, outcome.err), outcome.err
    assert outcome.err.count("\n") < 6


def test_another_configuration_does_not_continue_the_run(data, finished):
    outcome = train(data, finished[0], "--config.positive_share=0.25")
    assert outcome.code == 2
    assert "objective.positive_share: checkpoint 0.5, this run 0.25" in outcome.err
