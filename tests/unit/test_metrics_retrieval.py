"""Ranks with stated ties, recall both ways, folds."""

import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.errors import InputError
from vilbert_jax.metrics import coco_folds, mean_rank, median_rank, ranks, recall_at_k, retrieval
from vilbert_jax.metrics.retrieval import retrieval_metrics

TIES = ["stable", "optimistic", "pessimistic"]


def slow_rank(row, targets, ties):
    """Best position of a target after sorting the whole row."""
    order = {
        "stable": lambda k: (-row[k], k),
        "optimistic": lambda k: (-row[k], k not in targets),
        "pessimistic": lambda k: (-row[k], k in targets),
    }[ties]
    ranked = sorted(range(len(row)), key=order)
    return min(ranked.index(target) for target in targets)


@pytest.mark.parametrize(("ties", "rank"), [("optimistic", 0), ("pessimistic", 1), ("stable", 1)])
def test_the_worked_example_of_ties(ties, rank):
    scores = np.array([[0.5, 0.5, 0.1]])
    assert ranks(scores, [1], ties).tolist() == [rank]
    assert ranks(scores, [0], "stable").tolist() == [0]


@pytest.mark.parametrize("block_size", [1, 40, 1 << 22])
@pytest.mark.parametrize("ties", TIES)
def test_ranks_agree_with_sorting(monkeypatch, ties, block_size):
    monkeypatch.setattr(retrieval, "_BLOCK_SIZE", block_size)
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (50, 17)).astype(np.float32)
    one = rng.integers(0, 17, 50)
    several = [set(rng.choice(17, rng.integers(1, 6), replace=False).tolist()) for _ in range(50)]
    found = ranks(scores, one, ties)
    assert found.dtype == np.int64
    assert found.tolist() == [slow_rank(row, {target}, ties) for row, target in zip(scores, one, strict=True)]
    expected = [slow_rank(row, targets, ties) for row, targets in zip(scores, several, strict=True)]
    assert ranks(scores, several, ties).tolist() == expected
    assert ranks(scores, [[*targets, *targets] for targets in several], ties).tolist() == expected  # named twice: once
    assert len({tuple(ranks(scores, one, rule)) for rule in TIES}) == 3


def test_ranks_of_columns_and_of_memory_maps(tmp_path):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(30, 6)).astype(np.float16)
    np.save(tmp_path / "scores.npy", scores)
    stored = np.load(tmp_path / "scores.npy", mmap_mode="r")
    targets = np.arange(30).reshape(6, 5)
    expected = [slow_rank(column, set(of), "stable") for column, of in zip(scores.T, targets, strict=True)]
    assert ranks(stored.T, targets).tolist() == expected


def test_infinities_have_ranks():
    scores = np.array([[-np.inf, 0, np.inf, np.inf]])
    assert [ranks(scores, [k]).item() for k in range(4)] == [3, 2, 0, 1]


def test_logits_keep_apart_what_a_saturated_softmax_ties():
    logits = np.array([[40.0, 30.0, 20.0]], np.float32)
    saturated = np.float32(1) / (np.float32(1) + np.exp(-logits))
    assert ranks(logits, [1], "pessimistic") == 1
    assert ranks(saturated, [1], "pessimistic") == 2


def test_recall_and_ranks_as_published():
    scores = -np.arange(20.0)[None].repeat(4, axis=0)
    targets = [0, 4, 5, 19]
    assert vj.metrics.recall_at_k(scores, targets, ks=(1, 5, 10)) == {1: 0.25, 5: 0.5, 10: 0.75}
    assert recall_at_k(scores, targets, ks=(20,)) == {20: 1.0}
    found = ranks(scores, targets)
    assert median_rank(found) == 5  # between rank 5 and rank 6
    assert mean_rank(found) == 8.0
    assert median_rank(np.array([2])) == 3


def test_recall_takes_a_set_per_query():
    scores = np.array([[3.0, 2, 1], [3, 2, 1]])
    assert recall_at_k(scores, [{1, 2}, {0, 2}], ks=(1, 2)) == {1: 0.5, 2: 1.0}


def test_both_directions_written_out():
    scores = np.array(  # two captions an image, three images
        [[9, 1, 2], [1, 5, 3], [7, 6, 0], [0, 8, 1], [4, 4, 4], [1, 2, 3]], np.float32
    )
    metrics = retrieval_metrics(scores, captions_per_image=2)
    # Ranks of the captions' images: 0, 2, 1, 0, 2 (stable), 0. Of the images' best captions: 0, 0, 0.
    assert metrics == {
        "caption_to_image/recall@1": 0.5,
        "caption_to_image/recall@5": 1.0,
        "caption_to_image/recall@10": 1.0,
        "caption_to_image/median_rank": 1.0,
        "caption_to_image/mean_rank": pytest.approx(11 / 6),
        "image_to_caption/recall@1": 1.0,
        "image_to_caption/recall@5": 1.0,
        "image_to_caption/recall@10": 1.0,
        "image_to_caption/median_rank": 1.0,
        "image_to_caption/mean_rank": 1.0,
        "rsum": 5.5,
    }


def test_the_pessimistic_recall_appears_where_ties_matter():
    scores = np.zeros((10, 2))
    metrics = retrieval_metrics(scores)
    assert metrics["caption_to_image/recall@1"] == 0.5
    assert metrics["caption_to_image/pessimistic_recall@1"] == 0
    assert metrics["image_to_caption/recall@1"] == 0.5
    assert metrics["image_to_caption/pessimistic_recall@1"] == 0
    assert not any("pessimistic" in name for name in retrieval_metrics(scores, ties="pessimistic"))
    # Captions of one image that tie with each other alone hide nothing.
    scores = np.repeat(np.eye(2), 5, axis=0)
    assert not any("pessimistic" in name for name in retrieval_metrics(scores))


def test_folds_are_averaged_and_never_meet():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 30, (60, 12)).astype(np.float32)
    folds = [retrieval_metrics(scores[20 * k : 20 * k + 20, 4 * k : 4 * k + 4]) for k in range(3)]
    for k in range(3):
        scores[20 * k : 20 * k + 20, : 4 * k] = np.nan  # not read
        scores[20 * k : 20 * k + 20, 4 * k + 4 :] = np.nan
    averaged = coco_folds(scores, num_folds=3)
    for name in ("caption_to_image/recall@1", "image_to_caption/mean_rank", "rsum"):
        assert averaged[name] == pytest.approx(np.mean([fold[name] for fold in folds]), abs=1e-12)
        assert len({fold[name] for fold in folds}) > 1
    whole = rng.normal(size=(20, 4))
    assert coco_folds(whole, num_folds=1) == retrieval_metrics(whole)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((2, 3)), [0], r"\(2, 3\) and there are targets for 1 queries"),
        (np.zeros(3), [0, 1, 2], r"\(3,\)"),
        (np.zeros((2, 3)), [0, 3], "target of query 1 is 3, but there are 3 candidates"),
        (np.zeros((2, 3)), [-1, 0], "target of query 0 is -1"),
        (np.zeros((3, 3)), [{0, 1}, {2}, {0, 7}], "target of query 2 is 7"),
        (np.zeros((2, 3)), [{0}, set()], "query 1 has no target"),
        (np.zeros((2, 3)), [0.0, 1.0], "targets are float64"),
        (np.zeros((2, 3)), 4, "expected an index"),
        (np.array([[0, 1], [1, np.nan]]), [0, 0], "query 1 and candidate 1 is NaN"),
        (np.zeros((0, 3)), [], "at least one"),
    ],
)
def test_bad_scores_and_targets(scores, targets, message):
    with pytest.raises(InputError, match=message):
        recall_at_k(scores, targets)


def test_a_nan_is_found_in_later_blocks_too(monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_SIZE", 6)
    scores = np.zeros((9, 3))
    scores[7, 2] = np.nan
    with pytest.raises(InputError, match="query 7 and candidate 2"):
        ranks(scores, [0] * 9)


def test_other_bad_input():
    with pytest.raises(InputError, match="'random'"):
        ranks(np.zeros((1, 1)), [0], ties="random")
    with pytest.raises(InputError, match="recall at 0"):
        recall_at_k(np.zeros((1, 1)), [0], ks=(1, 0))
    with pytest.raises(InputError, match=r"\(12, 2\): expected \[captions, images\] with 5 captions"):
        retrieval_metrics(np.zeros((12, 2)))
    with pytest.raises(InputError, match="4 images do not divide into 3 folds"):
        coco_folds(np.zeros((20, 4)), num_folds=3)
    with pytest.raises(InputError, match="at least one"):
        median_rank(np.zeros(0))
    with pytest.raises(InputError, match="at least one"):
        retrieval_metrics(np.zeros((0, 0)))
