"""What the pre-training objectives hide: words and regions, as pure functions of uniform draws.

n word pieces or boxes of one example, F feature width.
"""

from typing import Literal, NamedTuple

import numpy as np

from vilbert_jax.metrics import box_iou

RegionMaskingRecipe = Literal["hide_overlaps", "readable_overlaps", "released", "released_multitask"]

_TOKEN_HIDDEN, _TOKEN_REPLACED = 0.8, 0.9  # of the selected words: [MASK] below, a random id below, then unchanged
_REGION_HIDDEN = 0.9  # of the selected regions; the others stay visible and are predicted all the same
_OVERLAP = 0.4  # regions with a larger IoU show much of each other's pixels


class MaskedTokens(NamedTuple):
    """Word pieces as the model sees them, and which of them it has to predict."""

    token_ids: np.ndarray  # [n] int32
    selected: np.ndarray  # [n] bool


class MaskedRegions(NamedTuple):
    """Which regions to predict, which to hide, and what the global feature is divided by."""

    selected: np.ndarray  # [n] bool, True = to predict
    hidden: np.ndarray  # [n] bool, True = the features are set to zero
    num_pooled: int  # divisor of the sum of the remaining features; at least 1


def mask_tokens(
    token_ids: np.ndarray,
    draws: np.ndarray,
    random_ids: np.ndarray,
    *,
    mask_id: int,
    rate: float = 0.15,
    max_selected: int | None = None,
) -> MaskedTokens:
    """Selects word pieces to predict; of these 80 % become [MASK], 10 % a random id, 10 % stay.

    One draw decides both: below ``rate`` the piece is selected, and its share of ``rate`` says what becomes of it.
    This is the rule of both released ViLBERT codes.

    Args:
        token_ids: [n] ids, without [CLS] and [SEP], which are never masked.
        draws: [n] uniform in 0..1.
        random_ids: [n] random ids; only those of the second branch are used.
        mask_id: id of [MASK].
        rate: probability of being selected.
        max_selected: where more are selected, the first ones in order count and the others stay as they are.

    Returns:
        The masked ids and the selection. The labels are the original ids where selected.
    """
    selected = draws < rate
    if max_selected is not None:
        selected &= np.cumsum(selected) <= max_selected
    share = _share_of_rate(draws, selected, rate)
    masked = np.where(share < _TOKEN_REPLACED, random_ids, token_ids)
    return MaskedTokens(np.where(share < _TOKEN_HIDDEN, mask_id, masked).astype(np.int32), selected)


def mask_regions(
    boxes: np.ndarray, draws: np.ndarray, *, recipe: RegionMaskingRecipe = "hide_overlaps", rate: float = 0.15
) -> MaskedRegions:
    """Selects regions to predict and says whose features to hide; locations are never hidden.

    One draw a region: below ``rate`` it is selected, below 0.9 ``rate`` it is also hidden. The recipes differ in what
    overlapping boxes do and in what the global feature is the mean of:

    * ``"hide_overlaps"``: every region whose IoU with a hidden selected one is above 0.4 is hidden too, since it shows
      the pixels to be predicted. It is not predicted for that; but a region that was selected to stay visible and must
      be hidden now counts as a masked one, with its own overlaps. The global feature is the mean of the visible rows.
    * ``"readable_overlaps"``: overlaps stay visible; the global feature is the mean of the visible rows. It differs
      from the first in the leak alone, and is there to measure that.
    * ``"released"``: vilbert_beta. Overlaps stay visible; the sum is divided by the number of boxes, hidden or not.
    * ``"released_multitask"``: vilbert-multi-task. Overlaps stay visible, and yet the sum, which holds them, is divided
      by the number of boxes that overlap no selected one. The released code needs exactly 36 boxes; here any number.

    Args:
        boxes: [n,4] x1, y1, x2, y2 in pixels.
        draws: [n] uniform in 0..1.
        recipe: one of the four above.
        rate: probability of being selected.
    """
    selected = draws < rate
    hidden = _share_of_rate(draws, selected, rate) < _REGION_HIDDEN
    if recipe == "released":
        return MaskedRegions(selected, hidden, max(len(boxes), 1))
    if recipe == "readable_overlaps":
        return MaskedRegions(selected, hidden, max(int((~hidden).sum()), 1))
    overlapping = box_iou(boxes[selected], boxes) > _OVERLAP  # a row for each selected one: the others hide nothing
    if recipe == "released_multitask":
        apart = ~overlapping.any(axis=0)
        return MaskedRegions(selected, hidden, max(int(apart.sum()), 1))
    while True:
        covered = hidden | overlapping[hidden[selected]].any(axis=0)
        predicted_and_covered = selected & covered
        if (predicted_and_covered == hidden).all():
            return MaskedRegions(selected, covered, max(int((~covered).sum()), 1))
        hidden = predicted_and_covered


def _share_of_rate(draws: np.ndarray, selected: np.ndarray, rate: float) -> np.ndarray:
    """Returns draws / rate [n] where selected, 1 elsewhere: again uniform in 0..1, so it decides what comes next."""
    return np.where(selected, draws / rate, 1.0) if rate else np.ones(len(draws))
