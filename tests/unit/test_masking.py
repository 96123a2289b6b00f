"""Masking: bit-compatible with the recorded draws of the released code; nothing leaks with the default recipe."""

import pathlib
from typing import get_args

import numpy as np
import pytest

from vilbert_jax.data.masking import RegionMaskingRecipe, mask_regions, mask_tokens
from vilbert_jax.data.transforms import region_row, relative_boxes
from vilbert_jax.metrics import box_iou
from vilbert_jax.tasks.regions import visible_features

RECIPES = get_args(RegionMaskingRecipe)
GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden" / "data"
CLS, SEP, MASK = 1, 2, 3
RATE = 0.15


class Draws:
    """Recorded random numbers, used up in order."""

    def __init__(self, golden):
        self.uniform, self.integers = list(golden["uniform_draws"]), list(golden["int_draws"])

    def next_uniform(self, count):
        taken, self.uniform = self.uniform[:count], self.uniform[count:]
        return np.array(taken)

    def random_ids(self, draws, lookup):
        """Ids for the draws that fall into the random-id branch; -1, which must not show up, elsewhere."""
        ids = np.full(len(draws), -1)
        for i, draw in enumerate(draws):
            if draw < RATE and 0.8 <= draw / RATE < 0.9:
                ids[i] = lookup[self.integers.pop(0)]
        return ids


def as_row(features, masked, locations=None):
    count = len(features)
    scales, locations = np.ones(count, np.float32), np.zeros((count, 5)) if locations is None else locations
    return region_row(features, scales, locations, masked.hidden, masked.num_pooled, num_slots=count + 1)


def visible(row):
    """What the model sees of one row of regions, the global one first."""
    return np.asarray(visible_features({name: values[None] for name, values in row._asdict().items()}))[0]


def replay(golden, *, mismatch_above, lookup, recipe):
    """The pre-training inputs of the golden's six records, from its draws in their recorded order."""
    draws, records = Draws(golden), []
    for b in range(6):
        (pair,) = draws.next_uniform(1)
        mismatched = pair > 0.5 if mismatch_above else not pair > 0.5
        pieces = golden[f"raw{b}_caption"]
        if mismatched:
            pieces = np.array([int(i) for i in golden["captions"][draws.integers.pop(0)].split()])
        pieces = pieces[:10]
        token_draws = draws.next_uniform(len(pieces))
        text = mask_tokens(pieces, token_draws, draws.random_ids(token_draws, lookup), mask_id=MASK)
        boxes, (width, height) = golden[f"raw{b}_boxes"], golden[f"raw{b}_wh"]
        masked = mask_regions(boxes, draws.next_uniform(36), recipe=recipe)
        locations = relative_boxes(boxes, width, height)
        regions = as_row(golden[f"raw{b}_feat"], masked, locations)
        row = np.zeros((3, 12), np.int64)
        row[2] = -1
        row[0, : len(pieces) + 2] = [CLS, *text.token_ids, SEP]
        row[1, : len(pieces) + 2] = 1
        row[2, 1 : len(pieces) + 1] = np.where(text.selected, pieces, -1)
        records.append((int(mismatched), row, masked, regions))
    assert not draws.uniform
    assert not draws.integers
    return records


@pytest.mark.parametrize(
    ("name", "mismatch_above", "lookup", "recipe"),
    [
        ("vmt", True, list(range(50)), "released_multitask"),
        ("beta", False, [*range(50), MASK, CLS, SEP], "released"),
    ],
)
def test_released_recipes_replay_the_recorded_draws(name, mismatch_above, lookup, recipe):
    golden = np.load(GOLDEN / f"{name}.npz")
    records = replay(golden, mismatch_above=mismatch_above, lookup=lookup, recipe=recipe)
    for b, (mismatched, row, masked, regions) in enumerate(records):
        assert mismatched == golden["is_next"][b]
        for field, values in zip(("input_ids", "input_mask", "lm_label_ids"), row, strict=True):
            np.testing.assert_array_equal(values, golden[field][b], err_msg=field)
        np.testing.assert_array_equal(np.where(masked.selected, 1, -1), golden["image_label"][b])
        np.testing.assert_array_equal(regions.region_mask, golden["image_mask"][b])
        np.testing.assert_allclose(visible(regions), golden["image_feat"][b], rtol=0, atol=1e-6)
        np.testing.assert_allclose(regions.region_boxes, golden["image_loc"][b], rtol=0, atol=1e-6)
        if recipe == "released_multitask":
            assert masked.num_pooled == max(1, (~golden["masked_label"][b]).sum())


def test_overlaps_are_those_of_the_released_code():
    golden = np.load(GOLDEN / "vmt.npz")
    iou = box_iou(golden["raw0_boxes"], golden["raw0_boxes"])
    np.testing.assert_allclose(iou, golden["overlaps_0"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(iou > 0.4, golden["overlaps_0"] > 0.4)


def test_one_draw_decides_what_becomes_of_a_token():
    draws = np.array([0.0, 0.119, 0.121, 0.134, 0.136, 0.149, 0.151, 0.999])
    masked = mask_tokens(np.arange(10, 18), draws, np.arange(30, 38), mask_id=MASK)
    # Below 0.12 = 0.8 * 0.15 [MASK], below 0.135 the random id, below 0.15 unchanged but predicted.
    assert masked.token_ids.tolist() == [MASK, MASK, 32, 33, 14, 15, 16, 17]
    assert masked.selected.tolist() == [True] * 6 + [False] * 2
    assert masked.token_ids.dtype == np.int32


def test_tokens_beyond_the_cap_keep_their_id_and_are_not_predicted():
    masked = mask_tokens(np.arange(10, 16), np.zeros(6), np.zeros(6, int), mask_id=MASK, max_selected=4)
    assert masked.token_ids.tolist() == [MASK] * 4 + [14, 15]
    assert masked.selected.sum() == 4


def test_token_statistics_are_15_percent_and_80_10_10():
    rng, count = np.random.default_rng(0), 400_000
    masked = mask_tokens(np.full(count, 7), rng.random(count), np.full(count, 9), mask_id=MASK)
    assert abs(masked.selected.mean() - 0.15) < 0.003
    kinds = [np.mean(masked.token_ids[masked.selected] == kind) for kind in (MASK, 9, 7)]
    np.testing.assert_allclose(kinds, [0.8, 0.1, 0.1], atol=0.005)
    assert (masked.token_ids[~masked.selected] == 7).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_region_statistics_are_15_percent_and_90_10(recipe):
    rng, corners = np.random.default_rng(0), np.arange(20)[:, None] * 50.0
    apart = np.concatenate([corners, corners, corners + 9, corners + 9], axis=1)
    masks = [mask_regions(apart, rng.random(20), recipe=recipe) for _ in range(10_000)]
    selected, hidden = np.stack([m.selected for m in masks]), np.stack([m.hidden for m in masks])
    assert abs(selected.mean() - 0.15) < 0.003
    assert abs(hidden[selected].mean() - 0.9) < 0.005
    assert not hidden[~selected].any()


def test_rates_of_zero_and_one():
    boxes = np.array([[0, 0, 9, 9], [50, 50, 59, 59]])
    for recipe in RECIPES:
        nothing = mask_regions(boxes, np.zeros(2), recipe=recipe, rate=0.0)
        assert not nothing.selected.any()
        assert not nothing.hidden.any()
        everything = mask_regions(boxes, np.array([0.89, 0.91]), recipe=recipe, rate=1.0)
        assert everything.selected.all()
        assert everything.hidden.tolist() == [True, False]
    ids = np.arange(10, 12)
    assert mask_tokens(ids, np.zeros(2), ids, mask_id=MASK, rate=0.0).token_ids.tolist() == [10, 11]


def cluttered_boxes(rng, count):
    """Boxes around a few centres, so that many overlap a lot."""
    corners = rng.integers(0, 4, (count, 2)) * 60 + rng.normal(0, 8, (count, 2)) + 30
    return np.concatenate([corners, corners + rng.uniform(30, 60, (count, 2))], axis=1).astype(np.float32)


def leaks(boxes, masked):
    """Pairs of a masked region to predict and a visible region that shows it."""
    predicted = masked.selected & masked.hidden
    return int((box_iou(boxes, boxes)[predicted][:, ~masked.hidden] > 0.4).sum())


def test_default_recipe_leaks_no_masked_region_and_the_released_ones_do():
    rng = np.random.default_rng(1)
    released = 0
    for _ in range(300):
        boxes, draws = cluttered_boxes(rng, rng.integers(1, 37)), rng.random(36)
        masked = mask_regions(boxes, draws[: len(boxes)])
        assert leaks(boxes, masked) == 0
        assert (masked.selected == (draws[: len(boxes)] < RATE)).all()
        released += leaks(boxes, mask_regions(boxes, draws[: len(boxes)], recipe="released_multitask"))
    assert released > 300  # vilbert-multi-task only sets a flag there


def test_a_region_is_hidden_only_for_a_reason():
    rng = np.random.default_rng(2)
    for _ in range(100):
        boxes, draws = cluttered_boxes(rng, 20), rng.random(20)
        masked = mask_regions(boxes, draws)
        predicted = masked.selected & masked.hidden
        overlaps = box_iou(boxes, boxes) > 0.4
        assert (masked.hidden == overlaps[predicted].any(axis=0)).all()
        kept = masked.selected & (draws / RATE >= 0.9)
        # One chosen to stay visible is hidden only if it overlaps another masked one.
        others = overlaps & ~np.eye(20, dtype=bool)
        assert (~(kept & masked.hidden) | others[predicted].any(axis=0)).all()


def test_kept_region_that_must_be_hidden_hides_its_own_overlaps():
    # A chain: 0 overlaps 1, 1 overlaps 2, 0 does not overlap 2. 0 is masked, 1 selected but kept, 2 untouched.
    boxes = np.array([[0, 0, 99, 99], [0, 35, 99, 134], [0, 70, 99, 169], [500, 500, 510, 510]])
    masked = mask_regions(boxes, np.array([0.01, 0.149, 0.9, 0.9]))
    assert masked.hidden.tolist() == [True, True, True, False]
    assert masked.selected.tolist() == [True, True, False, False]
    assert masked.num_pooled == 1


def test_global_feature_of_each_recipe():
    # 0 and 1 overlap; 0 is masked. Features: 2, 4, 8.
    boxes = np.array([[0, 0, 99, 99], [0, 10, 99, 109], [500, 500, 510, 510]])
    features, draws = np.array([[2.0], [4.0], [8.0]], np.float32), np.array([0.01, 0.9, 0.9])
    expected: dict[RegionMaskingRecipe, float] = {
        "hide_overlaps": 8.0,
        "readable_overlaps": (4 + 8) / 2,
        "released": (4 + 8) / 3,
        "released_multitask": (4 + 8) / 1,
    }
    assert expected.keys() == set(RECIPES)
    for recipe, value in expected.items():
        seen = visible(as_row(features, mask_regions(boxes, draws, recipe=recipe)))
        np.testing.assert_allclose(seen[0], [value], rtol=1e-6)
        assert seen[1:, 0].tolist() == ([0, 0, 8] if recipe == "hide_overlaps" else [0, 4, 8])
        assert seen.dtype == np.float32


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("count", [1, 2, 7, 36])
def test_any_number_of_boxes_even_with_all_hidden(recipe, count):
    boxes = cluttered_boxes(np.random.default_rng(3), count)
    masked = mask_regions(boxes, np.zeros(count), recipe=recipe)
    assert masked.num_pooled >= 1
    assert not visible(as_row(np.ones((count, 4), np.float32), masked)).any()
