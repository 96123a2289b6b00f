"""Which of a picture's regions are kept: the three rules behind the feature files that exist.

P proposals, C objects (background not counted), K places for regions: the rule's ``max_boxes``, at most P. A rule is a
value: it says what it needs and selects for one picture; ``jax.vmap`` does for several.

Sources: ``generate_tsv.py`` of peteanderson80/bottom-up-attention (``Confident``), the feature extraction of
facebookresearch/vilbert-multi-task and MMF (``Best``), that of Hugging Face's LXMERT and of
airsplay/py-bottom-up-attention (``ClassAgnostic``).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.suppression import Suppression, exceeds, reaches, suppress, suppress_by_class
from vilbert_jax.errors import InputError


class Candidates(NamedTuple):
    """Regions of one picture to choose from.

    Attributes:
        proposals: in raw pixels.
        regressed: the same boxes as the likeliest object of each moves them, in raw pixels.
        class_probs: background first.
        mask: which rows hold a region.
    """

    proposals: Float[Array, "P 4"]
    regressed: Float[Array, "P 4"]
    class_probs: Float[Array, "P C1"]
    mask: Bool[Array, "P"]


class Selection(NamedTuple):
    """The regions that a rule keeps, in its order.

    Attributes:
        rows: places among the candidates; 0 where there is none.
        mask: which of the K places hold a region; they come first.
        num_boxes: how many the rule's own files count; for ``Best`` it can be fewer than ``mask`` has.
        fell_short: the rule did not find what it asks for and kept the best of what there is: no region reached the
            confidence, no overlap left enough of them, or there are fewer regions than the least that it keeps.
    """

    rows: Int[Array, "K"]
    mask: Bool[Array, "K"]
    num_boxes: Int[Array, ""]
    fell_short: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confident:
    """The rule of bottom-up attention, and so of the released ViLBERT: regions that are surely some object.

    A region counts with its likeliest object among those for which no better proposal covers it. All that reach the
    confidence are kept, in the order of the proposals; fewer than ``min_boxes`` or more than ``max_boxes``, and it is
    the best so many, best first. Boxes are the proposals. 10 to 36 is the paper's choice, 10 to 100 the original's; 36
    and 36 the common fixed one.
    """

    min_boxes: int = 10
    max_boxes: int = 36
    confidence: float = 0.2
    overlap: float = 0.3
    inclusive: bool = True

    keeps_proposals = True

    def __post_init__(self):
        """Raises InputError for counts or a confidence that cannot be met."""
        _check_counts(self.min_boxes, self.max_boxes)
        _check_confidence(self.confidence)
        _ = self.suppression

    @property
    def suppression(self) -> Suppression:
        """Within each object, on proposals in raw pixels."""
        return Suppression(self.overlap, inclusive=self.inclusive, plus_one=True)

    def select(self, candidates: Candidates) -> Selection:
        """Chooses among the regions of one picture."""
        best = surviving_confidence(candidates, self.suppression)
        is_confident = reaches(best, self.confidence) & candidates.mask
        count = is_confident.sum()
        as_proposed = jnp.argsort(~is_confident, stable=True)
        least, most = (min(limit, len(best)) for limit in (self.min_boxes, self.max_boxes))
        fits = (count >= least) & (count <= most)
        order = jnp.where(fits, as_proposed, _descending(best, candidates.mask))
        kept = jnp.minimum(jnp.clip(count, least, most), candidates.mask.sum())
        rows, mask = _first(order, kept, self.max_boxes)
        return Selection(rows, mask, kept, (count == 0) | (kept < self.min_boxes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """The rule of vilbert-multi-task and MMF: always the same number of regions, best first.

    A region counts as in ``Confident``, with objects above ``confidence`` alone. Boxes are the proposals. All rows are
    kept; ``num_boxes`` counts those that are some object.
    """

    max_boxes: int = 100
    confidence: float = 0.0
    overlap: float = 0.5
    inclusive: bool = False

    keeps_proposals = True

    def __post_init__(self):
        """Raises InputError for a count or a confidence that cannot be met."""
        _check_counts(1, self.max_boxes)
        _check_confidence(self.confidence)
        _ = self.suppression

    @property
    def min_boxes(self) -> int:
        """It always keeps as many."""
        return self.max_boxes

    @property
    def suppression(self) -> Suppression:
        """Within each object, on proposals in raw pixels."""
        return Suppression(self.overlap, inclusive=self.inclusive, plus_one=True)

    def select(self, candidates: Candidates) -> Selection:
        """Chooses among the regions of one picture."""
        best = surviving_confidence(candidates, self.suppression, above=self.confidence)
        rows, mask = _first(_descending(best, candidates.mask), candidates.mask.sum(), self.max_boxes)
        count = ((best[rows] != 0) & mask).sum()
        return Selection(rows, mask, count, (count == 0) | (mask.sum() < self.max_boxes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassAgnostic:
    """The rule of LXMERT's port: suppression over all objects at once, on regressed boxes, best first.

    ``overlaps`` are tried in turn until ``min_boxes`` are left; 0.5, 0.6, 0.7 are Hugging Face's, 0.3 to 0.9 those of
    py-bottom-up-attention. If none is enough, the last one counts (the reference takes the boxes of the picture
    before). Boxes are the regressed ones.
    """

    min_boxes: int = 36
    max_boxes: int = 36
    overlaps: tuple[float, ...] = (0.5, 0.6, 0.7)

    keeps_proposals = False

    def __post_init__(self):
        """Raises InputError for counts that cannot be met, or without an overlap to try."""
        _check_counts(self.min_boxes, self.max_boxes)
        if not self.overlaps:
            raise InputError("overlaps is empty; give at least one, such as 0.5")
        _ = self.suppressions

    @property
    def suppressions(self) -> list[Suppression]:
        """Over all objects at once, on regressed boxes, in the order in which they are tried."""
        return [Suppression(overlap, inclusive=False, plus_one=False) for overlap in self.overlaps]

    def select(self, candidates: Candidates) -> Selection:
        """Chooses among the regions of one picture."""
        best = candidates.class_probs[:, 1:].max(axis=1)
        order = _descending(best, candidates.mask)
        boxes, present = candidates.regressed[order], candidates.mask[order]
        num_places = min(self.max_boxes, len(order))
        tried = [suppress(boxes, present, rule, max_kept=num_places) for rule in self.suppressions]
        kept, masks = (jnp.stack(arrays) for arrays in zip(*tried, strict=True))
        is_enough = masks.sum(axis=1) >= self.min_boxes
        chosen = jnp.where(is_enough.any(), is_enough.argmax(), len(tried) - 1)
        mask = masks[chosen]
        return Selection(jnp.where(mask, order[kept[chosen]], 0), mask, mask.sum(), ~is_enough.any())


SelectionRule = Confident | Best | ClassAgnostic


def surviving_confidence(candidates: Candidates, rule: Suppression, above: float | None = None) -> Float[Array, "P"]:
    """Per region the probability of its likeliest object among those whose suppression it survives; 0 if none.

    Args:
        candidates: of one picture.
        rule: suppression within each object, on the proposals.
        above: probabilities that are not above this do not count.
    """
    probs = candidates.class_probs[:, 1:]
    left = suppress_by_class(candidates.proposals, probs, candidates.mask, rule)
    left = left if above is None else left & exceeds(probs, above)
    return jnp.where(left, probs, 0).max(axis=1)


def _descending(values: Array, mask: Array) -> Array:
    """Places by falling value; equal ones keep their order, absent ones come last."""
    return jnp.argsort(jnp.where(mask, -values, jnp.inf), stable=True)


def _first(order: Array, count: Array, num_places: int) -> tuple[Array, Array]:
    """The first ``count`` of an order in a fixed number of places, or as many as the order has."""
    rows = order[:num_places]
    mask = jnp.arange(len(rows)) < count
    return jnp.where(mask, rows, 0), mask


def _check_counts(least: int, most: int) -> None:
    if not 1 <= least <= most:
        raise InputError(f"min_boxes is {least} and max_boxes {most}; expected 1 <= min_boxes <= max_boxes")


def _check_confidence(confidence: float) -> None:
    if not 0 <= confidence <= 1:
        raise InputError(f"confidence is {confidence}; a probability is from 0 to 1")
