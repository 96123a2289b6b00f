"""One prediction as experiments/predict.py asks for it: what of it is drawn."""

import pathlib

import numpy as np
import pytest
import small_detector
import toy_checkpoints as toys
import toy_tasks
from PIL import Image

import vilbert_jax as vj
from vilbert_jax.checkpoints.detectors import save_detector
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.extraction.contract import contract_of
from vilbert_jax.predictor import command

CAPTIONS = ("a tree", "a moon", "kite")
PARTS = TrainedFor(whole_image=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store with two checkpoints for it, a detector with one, and a picture."""
    root = tmp_path_factory.mktemp("command")
    toy_tasks.write_vocabulary(root)
    toy_tasks.write_regions(root, "toy_regions", toy_tasks.DETECTED)
    toys.save(root, "chooser", ("choice",))
    toys.save(root, "parts", ("grounding",), trained_for=PARTS)
    save_detector(root / "detector.safetensors", small_detector.detector())
    contract = contract_of(small_detector.detector(), small_detector.RULE)
    options = {"contract": contract, "region_feature_dim": contract.feature_dim}
    toys.save(root, "seeing", ("grounding",), trained_for=PARTS, **options)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(root / "picture.png")
    return root


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Makes a request; returns what was said, line by line, and what would be drawn."""
    drawn = []
    monkeypatch.setattr(command, "draw_answer", lambda path, shown: drawn.append((path, shown)))

    def call(**fields):
        said = []
        request = command.Request(**({"output": tmp_path / "answer.png"} | fields))
        assert command.predict(request, say=said.append) == 0
        return said[0].splitlines(), *drawn[-1]

    return call


def stored(root, name):
    return {"checkpoint": str(root / name), "regions": str(root / "toy_regions"), "image": "tree"}


def seen(root):
    files = {"checkpoint": "seeing", "detector": "detector.safetensors", "image": "picture.png"}
    return {"boxes": "3-6", **{name: str(root / file) for name, file in files.items()}}


@pytest.mark.parametrize("from_picture", [False, True])
def test_a_box_is_drawn_where_the_whole_picture_is_no_candidate(root, ask, from_picture):
    """So that no candidate has the picture's size."""
    source, size = (seen(root), (90, 60)) if from_picture else (stored(root, "parts"), (16, 8))
    _, _, shown = ask(expression="a tree", **source)
    assert shown.size == size
    assert shown.attention is None
    assert 0 not in [candidate.region for candidate in shown.candidates]
    assert (shown.picture is not None) == from_picture


def test_the_attention_of_the_best_caption_is_drawn(root, ask):
    lines, _, shown = ask(caption=CAPTIONS, **stored(root, "chooser"))
    best, *others = [line.split(maxsplit=1)[1] for line in lines]
    attention = vj.Predictor(root / "chooser", store=root / "toy_regions").attention
    np.testing.assert_allclose(shown.attention.shares, attention("tree", best).shares, atol=1e-5)
    for caption in others:
        assert np.abs(shown.attention.shares - attention("tree", caption).shares).max() > 1e-3
    assert [bar.text for bar in shown.bars] == [best, *others]
    assert sum(bar.share for bar in shown.bars) == pytest.approx(1)
    assert [f"{bar.label:>8}  {bar.text}" for bar in shown.bars] == lines


def test_a_single_caption_has_a_number_and_no_bar(root, ask):
    """The logit of a choice head is made to be compared; its sigmoid would mean nothing."""
    lines, _, shown = ask(caption=("kite",), **stored(root, "chooser"))
    assert [(bar.text, bar.share) for bar in shown.bars] == [("kite", 0)]
    assert lines == [f"{shown.bars[0].label:>8}  kite"]


def test_a_tilde_is_the_users_home(root, ask, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    given = seen(root) | {"image": "~/picture.png", "output": pathlib.Path("~/answer.png")}
    _, path, shown = ask(expression="a tree", **given)
    assert path == root / "answer.png"
    np.testing.assert_array_equal(shown.picture, np.asarray(Image.open(root / "picture.png")))
