"""From logits and states to results: the best answers, boxes and words, and embeddings.

K answers of a head, m region slots, P blanks, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np

from vilbert_jax.data.text import Tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.predictor.programs import States
from vilbert_jax.predictor.results import Answer, Candidate, Embedding, Grounded, Word


def best_answers(logits: np.ndarray, answers: Sequence[str], top_k: int) -> Answer:
    """The best of K answers, at least one, by [K] float32 logits."""
    best = _best(logits, top_k)
    top = tuple(Word(answers[int(k)], score) for k, score in zip(best, _sigmoid(logits[best]), strict=True))
    return Answer(top[0].text, top[0].score, top)


def best_boxes(logits: np.ndarray, boxes: np.ndarray, *, whole_image: bool) -> Grounded:
    """The best of m boxes [m,4], by [m] float32 logits; slot 0 counts with ``whole_image`` alone.

    Raises:
        InputError: there is no other slot.
    """
    if not whole_image and len(boxes) < 2:
        raise InputError(
            "there is nothing to choose from: the picture has no regions, and the whole of it is no candidate "
            "(whole_image=False); give regions, or let it be one"
        )
    corners, scores = boxes.tolist(), _sigmoid(logits)
    order = _best(logits, len(logits)).tolist()
    candidates = tuple(Candidate(tuple(corners[k]), scores[k], k) for k in order if whole_image or k)
    return Grounded(*candidates[0], candidates)


def best_words(logits: np.ndarray, tokenizer: Tokenizer, top_k: int) -> tuple[np.ndarray, tuple[tuple[Word, ...], ...]]:
    """The best word pieces for P blanks, by [P,V] float32 logits: their ids [P,top_k], and with probabilities."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    best = np.stack([_best(row, top_k) for row in logits])
    shares = np.take_along_axis(weights / weights.sum(axis=1, keepdims=True), best, axis=1).tolist()
    return best, tuple(tuple(map(Word, tokenizer.tokens(ids), blank)) for ids, blank in zip(best, shares, strict=True))


def as_embedding(states: States, *, tokens: Sequence[str] | None, boxes: np.ndarray | None) -> Embedding:
    """The states of a pair without those of a side that was not given, whose tokens or boxes [m,4] are None."""
    has_text, has_picture = tokens is not None, boxes is not None
    return Embedding(
        pair=states.pair if has_text and has_picture else None,
        text_pooled=states.text_pooled if has_text else None,
        text=states.text if has_text else None,
        tokens=None if tokens is None else tuple(tokens),
        regions_pooled=states.regions_pooled if has_picture else None,
        regions=states.regions if has_picture else None,
        boxes=boxes,
    )


def _best(logits: np.ndarray, count: int) -> np.ndarray:
    """Places of the largest, of equal ones the first."""
    return np.argsort(-logits, kind="stable")[:count]


def _sigmoid(logits: np.ndarray) -> list[float]:
    return np.exp(-np.logaddexp(np.float32(0), -logits)).tolist()
