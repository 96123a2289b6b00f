"""Greedy non-maximum suppression with static shapes, exact. P boxes, C classes, K boxes kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.boxes import overlaps
from vilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Suppression:
    """When a box drops a worse one.

    Attributes:
        threshold: intersection over union, 0..1, above which it does;
        inclusive: at which it does too (CPU builds of the original; its GPU builds, and torchvision, do not).
        plus_one: boxes are inclusive: sides are ``x2 - x1 + 1``.
    """

    threshold: float
    inclusive: bool
    plus_one: bool

    def __post_init__(self):
        """Raises InputError for a threshold that is no share."""
        if not 0 <= self.threshold <= 1:
            raise InputError(f"suppression threshold is {self.threshold}; an overlap is from 0 to 1")

    def drops(self, boxes: Float[Array, "P 4"], others: Float[Array, "Q 4"]) -> Bool[Array, "P Q"]:
        """Whether each box drops each other one."""
        overlap = overlaps(boxes, others, plus_one=self.plus_one)
        return reaches(overlap, self.threshold) if self.inclusive else exceeds(overlap, self.threshold)


def reaches(values: Float[Array, "*n"], threshold: float) -> Bool[Array, "*n"]:
    """Whether float32 values are at least ``threshold``, compared as the real numbers that they are.

    The references compare with a double. 0.7, for one, is no float32 and the nearest one is below it, so a value that
    prints as 0.7 does not reach it.
    """
    nearest = np.float32(threshold)
    return values >= (nearest if float(nearest) >= threshold else np.nextafter(nearest, np.float32(np.inf)))


def exceeds(values: Float[Array, "*n"], threshold: float) -> Bool[Array, "*n"]:
    """Whether float32 values are above ``threshold``, compared as the real numbers that they are."""
    nearest = np.float32(threshold)
    return values > (nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))


def suppress(
    boxes: Float[Array, "P 4"], candidates: Bool[Array, "P"], rule: Suppression, *, max_kept: int
) -> tuple[Int[Array, "K"], Bool[Array, "K"]]:
    """The boxes that no better one drops, best first.

    One box is settled a step: the best that is left is kept and drops its overlaps. That is the greedy algorithm, cut
    off at K, with P rather than P * P overlaps in memory.

    Args:
        boxes: in pixels, best first.
        candidates: which of them take part.
        rule: which boxes drop which.
        max_kept: K.

    Returns:
        Their places in ``boxes``, and which of the K places hold one; the others hold 0.
    """

    def step(left: Bool[Array, "P"], _: None) -> tuple[Array, tuple[Array, Array]]:
        best = jnp.argmax(left)  # the first that is True
        found = left[best]
        dropped = rule.drops(boxes[best][None], boxes)[0] | (jnp.arange(len(boxes)) == best)
        return left & ~dropped, (jnp.where(found, best, 0).astype(jnp.int32), found)

    _, (kept, mask) = jax.lax.scan(step, candidates, length=max_kept)
    return kept, mask


def suppress_by_class(
    boxes: Float[Array, "P 4"], scores: Float[Array, "P C"], candidates: Bool[Array, "P"], rule: Suppression
) -> Bool[Array, "P C"]:
    """Suppression within each class, whose scores order the boxes; equal scores keep the order of the boxes.

    Args:
        boxes: in pixels, the same for all classes.
        scores: of each box for each class.
        candidates: which boxes take part.
        rule: which boxes drop which.

    Returns:
        Whether a box is left in a class.
    """
    drops = rule.drops(boxes, boxes) & ~jnp.eye(len(boxes), dtype=bool)
    ranked = jnp.argsort(jnp.where(candidates[:, None], -scores, jnp.inf), axis=0, stable=True)

    def step(left: Bool[Array, "C P"], best: Int[Array, "C"]) -> tuple[Array, None]:
        found = jnp.take_along_axis(left, best[:, None], axis=1)
        return left & ~(drops[best] & found), None

    everything = jnp.broadcast_to(candidates[None], (scores.shape[1], len(boxes)))
    left, _ = jax.lax.scan(step, everything, ranked)
    return left.T
