"""Ranks and recall of retrieval, with a stated rule for ties, both ways and by COCO's folds.

Q queries, N candidates. Recall and ranks as ``evaluation.py`` of VSE++ and SCAN and ``eval_retrieval.py`` of
vilbert-multi-task; those sort unstably or in reverse, so that their ranks of equal scores are a matter of luck.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from vilbert_jax.errors import InputError

TieRule = Literal["stable", "optimistic", "pessimistic"]
Targets = np.ndarray | Sequence[int] | Sequence[Iterable[int]]

_BLOCK_SIZE = 1 << 22  # scores compared at once
_KS = (1, 5, 10)
_PESSIMISTIC = "pessimistic_recall@1"


def ranks(scores: np.ndarray, targets: Targets, ties: TieRule = "stable") -> np.ndarray:
    """The rank of each query's target among all candidates, 0 for the best.

    Where a query has several targets, the best rank among them counts, and targets do not stand in each other's way.
    Candidates that score the same as the target:

    * ``"stable"``: those of lower index come first, as in a stable descending sort;
    * ``"optimistic"``: the target comes first;
    * ``"pessimistic"``: the target comes last, behind every candidate that is no target itself.

    Args:
        scores: [Q,N], higher is better, infinities allowed. Give logits: the float32 softmax of a gap above 17 is 1,
            which makes ties of what is none.
        targets: [Q] candidate indices, or for each query a collection of them.
        ties: see above.

    Returns:
        [Q] int64.

    Raises:
        InputError: scores that are NaN or no matrix, not one target entry a query, a target that is no candidate, a
            query without target, or an unknown rule.
    """
    scores, chosen = np.asarray(scores), _targets(targets)
    if ties not in get_args(TieRule):
        raise InputError(f"unknown tie rule {ties!r}: use 'stable', 'optimistic' or 'pessimistic'")
    if scores.ndim != 2 or len(chosen.counts) != len(scores):
        raise InputError(
            f"scores have shape {scores.shape} and there are targets for {len(chosen.counts)} queries: expected "
            "[queries, candidates] and an index, or a collection of them, for each query"
        )
    _check_targets(chosen, scores.shape[1])
    found = np.empty(len(scores), np.int64)
    for block in _blocks(scores):
        values = scores[block]
        if np.isnan(values).any():
            row, column = np.argwhere(np.isnan(values))[0]
            raise InputError(
                f"the score of query {block.start + row} and candidate {column} is NaN, which has no rank: was the "
                "pair never scored, or did the model overflow?"
            )
        found[block] = _block_ranks(values, chosen.rows(block), ties)
    return found


def recall_at_k(
    scores: np.ndarray, targets: Targets, ks: Sequence[int] = _KS, ties: TieRule = "stable"
) -> dict[int, float]:
    """The share (0..1) of queries whose target is among the best k candidates, for each k.

    Args:
        scores: [Q,N], see ``ranks``.
        targets: see ``ranks``; of several targets one among the best k is enough.
        ks: whole numbers from 1 on.
        ties: what becomes of equal scores, see ``ranks``.

    Raises:
        InputError: as ``ranks``, a k below 1, or no query at all.
    """
    if bad := [k for k in ks if k < 1]:
        raise InputError(f"recall at {bad[0]}: k counts candidates, from 1 on")
    found = _some(ranks(scores, targets, ties))
    return {k: float((found < k).mean()) for k in ks}


def median_rank(ranks: np.ndarray) -> int:
    """The median rank as published: counted from 1, rounded down between two ranks. ``ranks``: [Q], from 0.

    Raises:
        InputError: no ranks.
    """
    return int(np.floor(np.median(_some(ranks)) + 1))


def mean_rank(ranks: np.ndarray) -> float:
    """The mean rank counted from 1. ``ranks``: [Q], from 0.

    Raises:
        InputError: no ranks.
    """
    return float(_some(ranks).mean() + 1)


def retrieval_metrics(scores: np.ndarray, captions_per_image: int = 5, ties: TieRule = "stable") -> dict[str, float]:
    """Every published number of one score matrix, in both directions.

    Captions ``c k .. c k + c - 1`` belong to image ``k``, with ``c`` captions an image. Captions find their image; an
    image finds the best placed of its captions (SCAN's rule).

    Args:
        scores: [captions, images], see ``ranks``.
        captions_per_image: c.
        ties: what becomes of equal scores, see ``ranks``.

    Returns:
        ``caption_to_image/`` and ``image_to_caption/`` each with ``recall@1``, ``recall@5``, ``recall@10`` (0..1),
        ``median_rank`` and ``mean_rank`` (from 1), and with ``pessimistic_recall@1`` where that differs from
        ``recall@1``; ``rsum``, the sum of the six recalls (0..6; papers print it times 100).

    Raises:
        InputError: as ``ranks``, or not c captions for each image.
    """
    return _without_idle_ties(_all_metrics(scores, captions_per_image, ties))


def coco_folds(
    scores: np.ndarray, num_folds: int = 5, captions_per_image: int = 5, ties: TieRule = "stable"
) -> dict[str, float]:
    """COCO's "1K" protocol: ``retrieval_metrics`` of consecutive folds, each averaged over the folds.

    Args:
        scores: [captions, images] of all folds (25000 x 5000 for COCO's test split); captions and images of different
            folds never meet, and their scores are not read.
        num_folds: how many equal folds.
        captions_per_image: see ``retrieval_metrics``.
        ties: what becomes of equal scores, see ``ranks``.

    Returns:
        As ``retrieval_metrics``.

    Raises:
        InputError: as ``retrieval_metrics``, or images that do not divide into folds.
    """
    scores = np.asarray(scores)
    num_images = _num_images(scores, captions_per_image)
    if num_folds < 1 or num_images % num_folds:
        raise InputError(f"{num_images} images do not divide into {num_folds} folds of equal size")
    size = num_images // num_folds
    folds = [
        _all_metrics(
            scores[start * captions_per_image : (start + size) * captions_per_image, start : start + size],
            captions_per_image,
            ties,
        )
        for start in range(0, num_images, size)
    ]
    return _without_idle_ties({name: float(np.mean([fold[name] for fold in folds])) for name in folds[0]})


class _Targets(NamedTuple):
    """The targets of all queries behind each other: query q has ``counts[q]`` of the ``indices``."""

    indices: np.ndarray
    counts: np.ndarray

    def rows(self, block: slice) -> "_Targets":
        start = self.counts[: block.start].sum()
        counts = self.counts[block]
        return _Targets(self.indices[start : start + counts.sum()], counts)


def _targets(targets: Targets) -> _Targets:
    try:
        per_query = [sorted(set(target)) if isinstance(target, Iterable) else [target] for target in targets]
    except TypeError as error:
        raise InputError(f"targets are {targets!r}: expected an index, or a collection of them, per query") from error
    indices = np.array([index for of_query in per_query for index in of_query])
    if indices.size and indices.dtype.kind not in "iu":
        raise InputError(f"targets are {indices.dtype}: expected integers, the indices of candidates")
    return _Targets(indices.astype(np.int64), np.array([len(of_query) for of_query in per_query], np.int64))


def _check_targets(targets: _Targets, num_candidates: int) -> None:
    if (targets.counts == 0).any():
        raise InputError(f"query {int((targets.counts == 0).argmax())} has no target: nothing it finds could be right")
    outside = (targets.indices < 0) | (targets.indices >= num_candidates)
    if outside.any():
        first = int(outside.argmax())
        query = int(np.searchsorted(targets.counts.cumsum(), first, side="right"))
        raise InputError(
            f"the target of query {query} is {targets.indices[first]}, but there are {num_candidates} candidates, from "
            "0 on"
        )


def _blocks(scores: np.ndarray) -> Iterator[slice]:
    rows = max(1, _BLOCK_SIZE // max(1, scores.shape[1]))
    for start in range(0, len(scores), rows):
        yield slice(start, min(start + rows, len(scores)))


def _block_ranks(scores: np.ndarray, targets: _Targets, ties: TieRule) -> np.ndarray:
    starts = targets.counts.cumsum() - targets.counts
    query = np.repeat(np.arange(len(scores)), targets.counts)
    of_targets = scores[query, targets.indices]
    best = np.maximum.reduceat(of_targets, starts)
    higher = (scores > best[:, None]).sum(axis=1)
    if ties == "optimistic":
        return higher
    equal = scores == best[:, None]
    is_best = of_targets == best[query]
    if ties == "pessimistic":
        return higher + equal.sum(axis=1) - np.add.reduceat(is_best.astype(np.int64), starts)
    first = np.minimum.reduceat(np.where(is_best, targets.indices, scores.shape[1]), starts)
    return higher + (equal & (np.arange(scores.shape[1]) < first[:, None])).sum(axis=1)


def _some(ranks: np.ndarray) -> np.ndarray:
    if not len(ranks):
        raise InputError("no queries: recall and ranks need at least one")
    return ranks


def _num_images(scores: np.ndarray, captions_per_image: int) -> int:
    if scores.ndim != 2 or captions_per_image < 1 or scores.shape[0] != captions_per_image * scores.shape[1]:
        raise InputError(
            f"scores have shape {scores.shape}: expected [captions, images] with {captions_per_image} captions for "
            "each image; images with more captions keep the first ones"
        )
    return scores.shape[1]


def _all_metrics(scores: np.ndarray, captions_per_image: int, ties: TieRule) -> dict[str, float]:
    scores = np.asarray(scores)
    images = np.arange(_num_images(scores, captions_per_image))
    captions = np.arange(len(scores)).reshape(len(images), captions_per_image)
    metrics, rsum = {}, 0.0
    for direction, matrix, targets in (
        ("caption_to_image", scores, np.repeat(images, captions_per_image)),
        ("image_to_caption", scores.T, captions),
    ):
        found = _some(ranks(matrix, targets, ties))
        recalls = {f"recall@{k}": float((found < k).mean()) for k in _KS}
        worst = found if ties == "pessimistic" else ranks(matrix, targets, "pessimistic")
        rsum += sum(recalls.values())
        of_direction = {
            **recalls,
            "median_rank": float(median_rank(found)),
            "mean_rank": mean_rank(found),
            _PESSIMISTIC: float((worst < 1).mean()),
        }
        metrics |= {f"{direction}/{name}": value for name, value in of_direction.items()}
    return {**metrics, "rsum": rsum}


def _without_idle_ties(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if not name.endswith(_PESSIMISTIC) or value != metrics[name.replace(_PESSIMISTIC, "recall@1")]
    }
