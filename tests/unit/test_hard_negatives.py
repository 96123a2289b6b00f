"""Hard negatives: nearest images against brute force, ties, small sets, the cache."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from vilbert_jax.data import hard_negatives
from vilbert_jax.data.hard_negatives import load_or_find, mean_features, nearest_images
from vilbert_jax.errors import InputError


@dataclasses.dataclass
class ToyContract:
    feature_dim: int = 5
    layer: str = "last"

    def to_json(self):
        return dataclasses.asdict(self)


class ToyStore:
    """Images "0", "1", ... of 1 to 4 boxes as int8 with a scale a box."""

    def __init__(self, seed=0, layer="last", num_images=40):
        self.contract, self.seed, self.num_images = ToyContract(layer=layer), seed, num_images
        self.fingerprint = f"{layer} {seed}"

    def __contains__(self, image_id):
        return int(image_id) < self.num_images

    def stored(self, image_id):
        rng = np.random.default_rng([self.seed, int(image_id)])
        n = int(rng.integers(1, 5))
        features = rng.integers(-127, 128, (n, self.contract.feature_dim)).astype(np.int8)
        return SimpleNamespace(features=features, scales=rng.uniform(0.01, 2, n).astype(np.float32))


def ids(count):
    return [str(k) for k in range(count)]


def brute_force(features, k):
    found = []
    for row, feature in enumerate(features.astype(np.float64)):
        distances = [(float(np.square(other - feature).sum()), i) for i, other in enumerate(features) if i != row]
        found.append([i for _, i in sorted(distances)[:k]])
    return np.array(found, np.int32)


@pytest.mark.parametrize("rows_at_once", [1, 7, 64, 1000])
def test_nearest_images_are_those_of_brute_force_in_blocks_of_any_size(rows_at_once):
    # Integers on a small grid: many exact ties, far from the origin, so that rounding of a product would show.
    features = np.random.default_rng(0).integers(1000, 1003, (65, 4)).astype(np.float32)
    found = nearest_images(features, 9, rows_at_once=rows_at_once)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, brute_force(features, 9))


def test_continuous_features_of_any_scale():
    for scale in (1e-6, 1, 1e6):
        features = (np.random.default_rng(1).normal(size=(50, 33)) * scale).astype(np.float32)
        np.testing.assert_array_equal(nearest_images(features, 5), brute_force(features, 5))


def test_duplicates_come_first_by_index_and_never_the_image_itself():
    features = np.array([[0], [5], [0], [9], [0]], np.float32)
    np.testing.assert_array_equal(nearest_images(features, 3), [[2, 4, 1], [3, 0, 2], [0, 4, 1], [1, 0, 2], [0, 2, 1]])
    same = nearest_images(np.full((6, 3), 0.1, np.float32), 2)
    np.testing.assert_array_equal(same, [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]])


def test_fewer_images_than_asked_for_gives_all_others():
    features = np.array([[0], [3], [1]], np.float32)
    np.testing.assert_array_equal(nearest_images(features, 100), [[2, 1], [2, 0], [0, 1]])
    assert nearest_images(features[:1]).shape == (1, 0)


def test_bad_features_are_refused():
    with pytest.raises(InputError, match="1 values that are not finite"):
        nearest_images(np.array([[1.0], [np.nan]]))
    with pytest.raises(InputError, match="k is 0"):
        nearest_images(np.ones((3, 2)), 0)


def test_mean_features_average_the_decoded_boxes():
    store = ToyStore()
    found = mean_features(store, ["3", "0"])
    for row, image_id in zip(found, ["3", "0"], strict=True):
        record = store.stored(image_id)
        np.testing.assert_allclose(row, (record.features * record.scales[:, None]).mean(axis=0), rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32


def test_images_that_the_store_lacks_are_counted():
    with pytest.raises(InputError, match="lacks 2 of 42 images, the first is '40'"):
        mean_features(ToyStore(), ids(42))


def test_the_cache_is_read_only_for_the_same_question(tmp_path, monkeypatch):
    store = ToyStore()
    first = load_or_find(tmp_path, store, ids(20), 4)
    np.testing.assert_array_equal(first, brute_force(mean_features(store, ids(20)), 4))
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    searches = []
    find = nearest_images
    monkeypatch.setattr(hard_negatives, "nearest_images", lambda *a, **options: searches.append(1) or find(*a))
    np.testing.assert_array_equal(load_or_find(tmp_path, store, ids(20), 4), first)
    assert not searches
    for other_store, image_ids, k in (
        (store, ids(21), 4),
        (store, ids(20)[::-1], 4),
        (store, ids(20), 5),
        (ToyStore(layer="first"), ids(20), 4),
        (ToyStore(seed=1), ids(20), 4),
    ):
        searches.clear()
        found = load_or_find(tmp_path, other_store, image_ids, k)
        assert searches
        np.testing.assert_array_equal(found, find(mean_features(other_store, image_ids), k))


def test_a_killed_search_leaves_nothing(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(hard_negatives, "nearest_images", killed)
    with pytest.raises(KeyboardInterrupt):
        load_or_find(tmp_path, ToyStore(), ids(9))
    assert not list(tmp_path.iterdir())


def test_a_search_shows_what_it_has_done_and_a_found_one_nothing(tmp_path, capsys):
    load_or_find(tmp_path, ToyStore(), ids(20), 4)
    shown = capsys.readouterr().err
    assert "features of images: 100%" in shown
    assert "hard negatives: 100%" in shown
    assert shown.count("20/20") == 2
    load_or_find(tmp_path, ToyStore(), ids(20), 4)
    assert not capsys.readouterr().err


def test_repeated_ids_are_refused(tmp_path):
    with pytest.raises(InputError, match="1 of 3 image ids are repetitions"):
        load_or_find(tmp_path, ToyStore(), ["1", "2", "1"])
