"""Region stores: contract, codec, index, failures."""

import concurrent.futures
import dataclasses
import json
import pickle
import shutil
import tempfile
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
import toy_tasks
from etils import epath

from tfds_builders.region_store_builder import RegionStoreBuilder
from vilbert_jax.data import region_codec, region_store
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Classifier, RegionRecord, Storage
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

CONTRACT = FeatureContract(
    detector="toy",
    weights_hash="abc",
    layer="last",
    colour_order="rgb",
    resize_rule="none",
    selection_rule="all",
    feature_dim=7,
    num_classes=3,
    class_names=("background", "cat", "dog"),
)

HALVES = Storage(features="float16", class_probs="float16")


def there_and_back(record: RegionRecord, storage: Storage, classifier: Classifier | None = None) -> RegionRecord:
    example = region_codec.encode_record(record, CONTRACT, storage) | {"image_id": record.image_id.encode()}
    return region_codec.decode_record(region_codec.decode_example(example, classifier), CONTRACT.num_classes)


def make_record(image_id: str, n: int = 4, contract: FeatureContract = CONTRACT) -> RegionRecord:
    rng = np.random.default_rng([len(image_id), *image_id.encode()])
    corners = np.sort(rng.uniform(0, [100, 80], (n, 2, 2)), axis=1).reshape(n, 4)
    probabilities = rng.dirichlet(np.ones(max(contract.num_classes, 1)), n).astype(np.float32)
    return RegionRecord(
        image_id,
        100,
        80,
        corners.astype(np.float32),
        (rng.normal(size=(n, contract.feature_dim)) * rng.uniform(0.01, 50, (n, 1))).astype(np.float32),
        probabilities if contract.num_classes else None,
    )


class ToyStore(RegionStoreBuilder):
    """Three splits, two shards in the first, awkward ids."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent  # this module is in no package
    CONTRACT = CONTRACT
    STORAGE = HALVES
    IDS: ClassVar[dict[str, list[list[str]]]] = {
        "train": [["b", "ä-image"], ["a/1.jpg"]],
        "validation": [["z"]],
        "another": [["c" * 200]],
    }
    KILLED_COPY = None  # where to copy the half-built folder to, before the build is interrupted

    def feature_contract(self):
        return self.CONTRACT

    def region_shards(self, dl_manager):
        def shard(ids):
            for k, image_id in enumerate(ids):
                if self.KILLED_COPY and image_id == "z":
                    shutil.copytree(self.data_dir, self.KILLED_COPY)
                    raise KeyboardInterrupt
                yield make_record(image_id, 1 + k, self.CONTRACT)

        return {split: [lambda ids=ids: shard(ids) for ids in shards] for split, shards in self.IDS.items()}


def build(root, **attributes):
    kind = type("ToyStore", (ToyStore,), attributes | {"__module__": __name__}, skip_registration=True)
    made = kind(data_dir=root, file_format="array_record")
    made.download_and_prepare()
    return made.data_dir


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as root:
        yield build(root)


def test_reads_back_every_record_of_every_split(folder):
    store = RegionStore(folder)
    ids = [i for shards in ToyStore.IDS.values() for shard in shards for i in shard]
    assert len(store) == len(ids)
    assert sorted(ids, key=str.encode) == store.image_ids
    for shards in ToyStore.IDS.values():
        for shard in shards:
            for k, image_id in enumerate(shard):
                expected, found = make_record(image_id, 1 + k), store[image_id]
                assert found[:3] == expected[:3]
                assert found.class_probs is not None
                assert expected.class_probs is not None
                np.testing.assert_array_equal(found.boxes, expected.boxes)
                np.testing.assert_allclose(found.features, expected.features, rtol=2**-11, atol=1e-7)
                np.testing.assert_allclose(found.class_probs, expected.class_probs, atol=2**-11)
                for values in (found.boxes, found.features, found.class_probs):
                    assert values.dtype == np.float32
                    assert values.flags.writeable


def test_contract_and_membership(folder):
    store = RegionStore(folder)
    assert store.contract == CONTRACT
    assert store.storage == Storage(features="float16", class_probs="float16")
    assert "a/1.jpg" in store
    for absent in ("", "b\0", "A/1.jpg", "zz", "a", 3, None):
        assert absent not in store
    with pytest.raises(KeyError, match="zz"):
        store["zz"]


def test_opens_the_newest_version_above_the_folder(folder):
    assert RegionStore(tfds.core.Path(folder).parent)["z"].image_id == "z"


def test_pickles_as_its_path_and_reads_from_threads(folder):
    store = RegionStore(folder)
    data = pickle.dumps(store)
    assert len(data) < 1000
    again = pickle.loads(data)
    wanted = store.image_ids * 40
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image_id: again[image_id], wanted))
    assert [record.image_id for record in found] == wanted
    for record in found:
        np.testing.assert_array_equal(record.features, store[record.image_id].features)


def test_int8_and_no_class_probabilities(tmp_path):
    contract = dataclasses.replace(CONTRACT, num_classes=0, class_names=(), background="absent")
    store = RegionStore(build(tmp_path, STORAGE=Storage(features="int8"), CONTRACT=contract))
    assert store.storage.features == "int8"
    record, expected = store["ä-image"], make_record("ä-image", 2, contract)
    assert record.class_probs is None
    error = np.abs(record.features - expected.features)
    assert (error <= np.abs(expected.features).max(axis=1, keepdims=True) / 254 * 1.001).all()


def test_top_k_keeps_the_likeliest_classes_and_the_total():
    record = make_record("x", 50)
    found = there_and_back(record, Storage(class_probs="top_k", num_classes=1)).class_probs
    assert found is not None
    assert record.class_probs is not None
    best = record.class_probs.argmax(1)
    assert (found.argmax(1) == best).all()
    rows = np.arange(50)
    np.testing.assert_allclose(found[rows, best], record.class_probs[rows, best], rtol=2**-11)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    others = np.delete(found[0], best[0])
    assert others[0] == others[1] > 0  # spread evenly
    everything = there_and_back(record, Storage(class_probs="top_k", num_classes=9)).class_probs
    np.testing.assert_allclose(everything, record.class_probs, atol=2**-11)


def test_rebuilt_class_probabilities_are_the_softmax_of_what_is_stored(tmp_path):
    rng = np.random.default_rng(0)
    classifier = Classifier(rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    storage = Storage(features="int8", class_probs="rebuilt")
    with pytest.raises(InputError, match="classifier is not known"):
        build(tmp_path / "without", STORAGE=storage)
    folder = build(tmp_path, STORAGE=storage, feature_classifier=lambda self: classifier)
    found = RegionStore(folder)["ä-image"]
    assert found.class_probs is not None
    scores = np.exp(found.features.astype(np.float64) @ classifier.weights + classifier.bias)
    np.testing.assert_allclose(found.class_probs, scores / scores.sum(1, keepdims=True), atol=1e-3)
    (epath.Path(folder) / "classifier.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"classifier\.npz"):
        RegionStore(folder)


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_codec_error_bounds(storage):
    rng = np.random.default_rng(0)
    record = make_record("x", 50)
    features = rng.normal(size=(50, 7)).astype(np.float32) * 10.0 ** rng.integers(-3, 4, (50, 1)).astype(np.float32)
    features[3] = 0
    decoded = there_and_back(record._replace(features=features), Storage(features=storage))
    if storage == "float16":
        bound = np.maximum(np.abs(features) * 2**-11, 2**-24)
    else:
        bound = np.broadcast_to(np.abs(features).max(axis=1, keepdims=True) / 254 * 1.001, features.shape)
    assert (np.abs(decoded.features - features) <= bound).all()
    assert not decoded.features[3].any()


def replaced(field, row, value):
    record = make_record("bad-image", 4)
    values = getattr(record, field).copy()
    values[row] = value
    return record._replace(**{field: values})


BAD = {
    "no boxes": make_record("bad-image", 4)._replace(boxes=np.zeros((0, 4), np.float32)),
    "box outside": replaced("boxes", 1, [0, 0, 100.5, 20]),
    "negative box": replaced("boxes", 0, [-2, 0, 10, 20]),
    "corners swapped": replaced("boxes", 0, [20, 0, 10, 20]),
    "nan feature": replaced("features", 2, np.nan),
    "infinite box": replaced("boxes", 2, np.inf),
    "too large for float16": replaced("features", 2, 1e5),
    "logits": replaced("class_probs", 0, [2.0, 1.0, 3.0]),
    "negative probability": replaced("class_probs", 0, [-0.1, 0.5, 0.5]),
    "feature width": make_record("bad-image", 4)._replace(features=np.zeros((4, 6), np.float32)),
    "feature rows": make_record("bad-image", 4)._replace(features=np.zeros((3, 7), np.float32)),
    "class count": make_record("bad-image", 4)._replace(class_probs=np.zeros((4, 4), np.float32)),
    "no class probabilities": make_record("bad-image", 4)._replace(class_probs=None),
    "no size": make_record("bad-image", 4)._replace(width=0),
}


@pytest.mark.parametrize("record", BAD.values(), ids=BAD.keys())
def test_encode_refuses_what_cannot_be_right_and_names_the_image(record):
    with pytest.raises(InputError, match="bad-image"):
        region_codec.encode_record(record, CONTRACT, HALVES)


@pytest.mark.parametrize("image_id", ["", "a\0b", "x" * 256, 7])
def test_encode_refuses_unusable_ids(image_id):
    with pytest.raises(InputError, match="image id"):
        region_codec.encode_record(make_record("x")._replace(image_id=image_id), CONTRACT, HALVES)


def test_probabilities_without_a_place_in_the_contract_are_refused():
    contract = dataclasses.replace(CONTRACT, num_classes=0, class_names=())
    with pytest.raises(InputError, match="num_classes = 0"):
        region_codec.encode_record(make_record("x"), contract, HALVES)


def test_unknown_storage_is_refused():
    for fields, message in (
        ({"features": "float8"}, "features is 'float8'; use one of float16, int8"),
        ({"class_probs": "none"}, "use one of float16, top_k, rebuilt"),
        ({"num_classes": 0}, "keep at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            Storage(**fields)


def test_an_id_that_occurs_twice_stops_the_build(tmp_path):
    with pytest.raises(InputError, match="'b' occurs more than once"):
        build(tmp_path, IDS={"train": [["a", "b"]], "test": [["b"]]})
    with pytest.raises(InputError, match="no region store"):
        RegionStore(tmp_path / "toy_store")


def test_an_interrupted_build_leaves_nothing_that_opens(tmp_path):
    copy = tmp_path / "killed" / "toy_store" / "1.0.0"  # what kill -9 would leave, even under the final name
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "interrupted", KILLED_COPY=copy)
    assert list(copy.iterdir())
    for folder in (tmp_path, *(child for child in tmp_path.rglob("*") if child.is_dir())):
        with pytest.raises(InputError, match="no region store"):
            RegionStore(folder)


def test_missing_and_damaged_stores_say_what_to_do(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder.*build.py"):
        RegionStore(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no dataset_info\.json"):
        RegionStore(tmp_path)

    def damaged(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        return copy

    with pytest.raises(InputError, match=r"image_ids\.npy is missing"):
        RegionStore(damaged(lambda copy: (copy / "image_ids.npy").unlink()))
    with pytest.raises(InputError, match="not a region store"):
        RegionStore(damaged(lambda copy: (copy / "metadata.json").write_text("{}")))
    with pytest.raises(InputError, match="damaged"):
        RegionStore(damaged(lambda copy: (copy / "metadata.json").write_text("{")))

    def shorten(copy):
        np.save(copy / "image_ids.npy", np.load(copy / "image_ids.npy")[:-1])

    with pytest.raises(InputError, match=r"image_rows\.npy holds int64 \[5\], not the int64 rows of 4 ids.*verify"):
        RegionStore(damaged(shorten))

    def reverse(copy):
        np.save(copy / "image_rows.npy", np.load(copy / "image_rows.npy")[::-1])

    store = RegionStore(damaged(reverse))
    with pytest.raises(InputError, match=r"image_rows\.npy gives row . for .*, but that is image"):
        store[store.image_ids[0]]


def test_index_of_a_large_store_is_small_and_exact(tmp_path):
    ids = [f"train-{k * 7919 % 100003:07d}" for k in range(100_003)]
    region_store.write_index(tmp_path, {"train": ids[:60_000], "a": ids[60_000:]})
    stored, rows = np.load(tmp_path / "image_ids.npy"), np.load(tmp_path / "image_rows.npy")
    assert stored.nbytes == 13 * len(ids)
    in_order = np.array(ids[60_000:] + ids[:60_000], dtype=np.bytes_)  # splits in order of their names
    np.testing.assert_array_equal(in_order[rows], stored)


def test_a_fingerprint_is_of_what_is_stored_not_of_where(tmp_path):
    def fingerprint(name, pictures=toy_tasks.DETECTED, contract=toy_tasks.CONTRACT):
        toy_tasks.write_regions(tmp_path / name, "toy_regions", pictures, contract)
        return RegionStore(tmp_path / name / "toy_regions").fingerprint

    first, lake = fingerprint("a"), toy_tasks.DETECTED["lake"]
    assert fingerprint("b") == first
    for number, changed in enumerate(
        (
            {"lake": lake._replace(features=[[4, 0, 0, 8.5]])},
            {"lake": lake._replace(boxes=[[5, 5, 15, 16]])},
            {"pond": lake},
        )
    ):
        assert fingerprint(f"c{number}", toy_tasks.DETECTED | changed) != first
    other = dataclasses.replace(toy_tasks.CONTRACT, weights_hash="other")
    assert fingerprint("d", contract=other) != first


def test_contract_survives_json_and_reports_differences():
    assert FeatureContract.from_json(json.loads(json.dumps(CONTRACT.to_json()))) == CONTRACT
    assert CONTRACT.differences(CONTRACT) == []
    other = dataclasses.replace(CONTRACT, colour_order="bgr", class_names=("background", "cow", "dog"))
    colour, names = CONTRACT.differences(other)
    assert colour == "colour_order: 'rgb' here, 'bgr' there"
    assert "1 of 3" in names
    assert "'cat' here, 'cow' there" in names
    fewer = dataclasses.replace(CONTRACT, num_classes=2, class_names=("background", "cat"))
    assert any("3 names here, 2 there" in line for line in CONTRACT.differences(fewer))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"background": "last"}, "background"),
        ({"feature_dim": 0}, "feature_dim"),
        ({"class_names": ("one",)}, "1 class names for 3"),
    ],
)
def test_contract_refuses_contradictions(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONTRACT, **change)


def test_contract_from_json_refuses_other_fields():
    with pytest.raises(InputError, match="colour"):
        FeatureContract.from_json(CONTRACT.to_json() | {"colour": "red"})
    incomplete = CONTRACT.to_json()
    del incomplete["layer"]
    with pytest.raises(InputError, match="layer"):
        FeatureContract.from_json(incomplete)
