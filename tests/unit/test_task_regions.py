"""Regions of downstream tasks: which boxes stay, in which slots, and the global feature; all worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.data.region_codec import StoredRegions
from vilbert_jax.data.task_regions import arrange, arrange_with_candidates, arrange_with_given, blanked
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.regions import task_features

WIDTH, HEIGHT = 40, 20


def stored(boxes, features, scales=None, dtype=np.float32, width=WIDTH):
    scales = np.ones(len(boxes)) if scales is None else scales
    arrays = (np.array(boxes, np.float32), np.array(features, dtype), np.array(scales, np.float32))
    return StoredRegions("picture", width, HEIGHT, *arrays, None, None)


DETECTED = stored([[0, 0, 10, 10], [10, 0, 30, 20], [20, 10, 40, 20]], [[1, 2], [3, 0], [8, 4]])  # their mean is [4, 2]
GIVEN = stored([[4, 4, 8, 8], [5, 5, 35, 15]], [[10, 0], [30, 8]])  # their mean is [20, 4]
LOCATIONS = {  # of the boxes, by their first features
    1: [0, 0, 0.25, 0.5, 0.125],
    3: [0.25, 0, 0.75, 1, 0.5],
    8: [0.5, 0.5, 1, 1, 0.25],
    10: [0.1, 0.2, 0.2, 0.4, 0.02],
    30: [0.125, 0.25, 0.875, 0.75, 0.375],
}


def slots(arrangement):
    """First feature of every slot in use but the global one, having checked that everything else agrees with it."""
    regions, used = arrangement.regions, len(arrangement.boxes)
    seen = np.asarray(task_features(regions._asdict()))
    first = [round(float(x)) for x in seen[1:used, 0]]
    np.testing.assert_array_equal(regions.region_mask, np.arange(len(seen)) < used)
    np.testing.assert_array_equal(regions.region_boxes[0], [0, 0, 1, 1, 1])
    np.testing.assert_allclose(regions.region_boxes[1:used], [LOCATIONS[x] for x in first], rtol=1e-6)
    np.testing.assert_array_equal(arrangement.boxes[0], [0, 0, WIDTH, HEIGHT])
    size = np.array([WIDTH, HEIGHT] * 2)
    np.testing.assert_allclose(arrangement.boxes[1:], regions.region_boxes[1:used, :4] * size, rtol=1e-6)
    for padding in (seen[used:], regions.region_boxes[used:], regions.feature_scales[used - 1 :]):
        assert not padding.any()
    np.testing.assert_array_equal(seen[0], regions.global_feature)
    return first


def test_detected_regions_in_their_order_behind_the_whole_picture():
    arrangement = arrange(DETECTED, max_regions=5)
    assert slots(arrangement) == [1, 3, 8]
    np.testing.assert_array_equal(arrangement.regions.global_feature, [4, 2])
    shapes = {name: (x.shape, x.dtype) for name, x in arrangement.regions._asdict().items()}
    assert shapes == {
        "stored_features": ((5, 2), np.float32), "feature_scales": ((5,), np.float32),
        "global_feature": ((2,), np.float32), "region_boxes": ((6, 5), np.float32), "region_mask": ((6,), bool),
    }  # fmt: skip


def test_boxes_that_are_cut_off_still_count_in_the_global_feature():
    arrangement = arrange(DETECTED, max_regions=1)
    assert slots(arrangement) == [1]
    np.testing.assert_array_equal(arrangement.regions.global_feature, [4, 2])


def test_integers_stay_integers_on_their_way_to_the_device_and_count_with_their_scales():
    regions = arrange(
        stored(DETECTED.boxes, [[126, 5], [0, -4], [2, 2]], scales=[1, 0.5, 3], dtype=np.int8), max_regions=3
    ).regions
    assert regions.stored_features.dtype == np.int8
    np.testing.assert_array_equal(regions.global_feature, [44, 3])
    np.testing.assert_array_equal(task_features(regions._asdict()), [[44, 3], [126, 5], [0, -2], [6, 6]])


def test_half_floats_are_averaged_in_full_precision():
    count = 4096  # a sum of so many would not move any more in float16
    many = stored([[0, 0, 1, 1]] * count, [[1.0, 60000.0]] * count, dtype=np.float16)
    np.testing.assert_array_equal(
        arrange(many, max_regions=2).regions.global_feature, np.float32([1, np.float16(60000)])
    )


@pytest.mark.parametrize(
    ("max_regions", "expected"),
    [
        (7, [1, 3, 8, 10, 30]),
        (5, [1, 3, 8, 10, 30]),
        (4, [1, 3, 8, 10]),  # annotated boxes are the first to go
        (3, [1, 3, 8]),
        (2, [1, 3]),
    ],
)
def test_candidates_fill_what_the_detected_ones_leave(max_regions, expected):
    arrangement = arrange_with_candidates(DETECTED, GIVEN, max_regions=max_regions)
    assert slots(arrangement) == expected
    np.testing.assert_array_equal(arrangement.regions.global_feature, [4, 2])  # as in evaluation, where there are none


@pytest.mark.parametrize(
    ("max_regions", "expected"),
    [
        (7, [1, 3, 8, 10, 30]),
        (5, [1, 3, 8, 10, 30]),
        (4, [1, 3, 10, 30]),  # detected ones go first
        (2, [10, 30]),
        (1, [10]),
    ],
)
def test_given_boxes_push_detected_ones_out(max_regions, expected):
    arrangement = arrange_with_given(DETECTED, GIVEN, max_regions=max_regions)
    assert slots(arrangement) == expected
    # 3 detected and 2 given boxes, each with its global one: (4 * [4, 2] + 3 * [20, 4]) / 7
    np.testing.assert_allclose(arrangement.regions.global_feature, [76 / 7, 20 / 7], rtol=1e-6)


def test_stores_of_different_types_meet_as_floats_whatever_is_cut():
    whole = stored(GIVEN.boxes, [[20, 0], [60, 16]], scales=[0.5, 0.5], dtype=np.int8)
    for max_regions in (5, 2):
        arrangement = arrange_with_given(DETECTED, whole, max_regions=max_regions)
        assert slots(arrangement) == ([1, 3, 8] if max_regions == 5 else []) + [10, 30]
        assert arrangement.regions.stored_features.dtype == np.float32  # the same in every row of a batch
        np.testing.assert_allclose(arrangement.regions.global_feature, [76 / 7, 20 / 7], rtol=1e-6)


@pytest.mark.parametrize("arranged", [arrange_with_given, arrange_with_candidates])
def test_stores_of_different_pictures_are_refused(arranged):
    with pytest.raises(InputError, match="'picture' is 40 x 20 pixels .* and 41 x 20 .* extract both"):
        arranged(DETECTED, GIVEN._replace(width=41), max_regions=5)


@pytest.mark.parametrize("max_regions", [2, 6])
def test_a_blanked_picture_says_nothing_of_the_picture_and_not_how_many_boxes_it_has(max_regions):
    pictures = [arrange(DETECTED, max_regions=max_regions), arrange(GIVEN, max_regions=max_regions)]
    pictures.append(arrange_with_given(DETECTED, GIVEN, max_regions=max_regions))
    first, *others = (blanked(picture.regions) for picture in pictures)
    for other in others:
        for name, values in first._asdict().items():
            np.testing.assert_array_equal(values, getattr(other, name), err_msg=name)
    assert first.region_mask.all()
    assert not any(np.any(x) for name, x in first._asdict().items() if name != "region_mask")
    original = pictures[0].regions
    assert all(
        getattr(first, n).dtype == x.dtype and getattr(first, n).shape == x.shape for n, x in original._asdict().items()
    )
    assert original.region_mask.sum() == min(max_regions, 3) + 1  # which is left as it was


def test_features_of_any_leading_shape_are_decoded():
    regions = arrange(stored(DETECTED.boxes, [[2, 4], [6, 0], [1, 1]], [0.5, 0.5, 2], np.int8), max_regions=4).regions
    one = np.asarray(task_features(regions._asdict()))
    batch = {name: jnp.broadcast_to(jnp.asarray(x), (3, 2, *x.shape)) for name, x in regions._asdict().items()}
    np.testing.assert_array_equal(task_features(batch), np.broadcast_to(one, (3, 2, *one.shape)))
    np.testing.assert_array_equal(one[1:], [[1, 2], [3, 0], [2, 2], [0, 0]])
