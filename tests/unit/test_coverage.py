"""Which rows have regions: the join against plain Python sets, and where the ids of the rows come from."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vilbert_jax.data import annotations, coverage
from vilbert_jax.data.annotations import open_annotations, row_image_ids, write_image_ids
from vilbert_jax.data.coverage import Coverage, UsedRows, join
from vilbert_jax.errors import InputError


def as_stored(ids):
    return np.array([image_id.encode() for image_id in ids], np.bytes_)


def expected(ids, store):
    """The same by plain Python."""
    used = [row for row, image_id in enumerate(ids) if image_id in store]
    listing = "".join(f"{ids[row]}\n" for row in used)
    return used, Coverage(
        pairs=len(ids),
        pairs_used=len(used),
        images=len(set(ids)),
        images_present=len(set(ids) & store),
        images_absent=len(set(ids) - store),
        duplicates=len(ids) - len(set(ids)),
        manifest=hashlib.sha256(listing.encode()).hexdigest(),
    )


@pytest.mark.parametrize("at_once", [1, 7, 1 << 18])
@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_join_is_membership_in_a_set(kind, at_once, monkeypatch):
    monkeypatch.setattr(coverage, "_IDS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 2**32, 300, dtype=np.uint32)
    numbers[:5] = [0, 1, 10, 2**32 - 1, 9]
    names = [f"{n}" if kind == "numbers" else f"ä{'x' * (n % 9)}/{n % 97}.jpg" for n in numbers.tolist()]
    ids = [names[k] for k in rng.integers(0, 300, 500)]
    store = set(names[::3])
    coverage_found, rows = join(as_stored(ids), np.sort(as_stored(store)))
    assert (rows.tolist(), coverage_found) == expected(ids, store)
    assert 0 < len(rows) < len(ids)
    assert rows.dtype == np.int32
    if kind == "numbers":
        again, same_rows = join(np.array(ids, np.uint32), np.sort(as_stored(store)))
        assert again == coverage_found
        np.testing.assert_array_equal(same_rows, rows)


@pytest.mark.parametrize(
    ("ids", "store"),
    [
        (["12345678901", "123"], {"1234567890", "9"}),  # longer than any id of the store: not that id cut short
        (["1"], {"10", "100"}),
        (["zz", "zzz"], {"a", "b"}),  # behind the end
        (["a", "b", "a"], {"a", "b"}),
        (["a"], set()),
    ],
)
def test_join_in_special_cases(ids, store):
    found, rows = join(as_stored(ids), np.sort(as_stored(store)))
    assert (rows.tolist(), found) == expected(ids, store)


def test_the_manifest_names_the_subset():
    store = np.sort(as_stored("abcd"))

    def manifest(ids):
        return join(as_stored(ids), store)[0].manifest

    assert manifest("abxcd") == manifest("abcdy")  # what is left out does not matter
    assert len({manifest(ids) for ids in ("abcd", "abc", "abdc", "abcdd")}) == 4
    assert manifest(["ab", "c"]) == manifest(["c"])
    assert join(as_stored(["ab", "c"]), as_stored(["ab", "c"]))[0].manifest != manifest(["a", "b", "c"])


def test_a_share_is_not_rounded_up_to_all():
    whole = Coverage(
        pairs=100_000, pairs_used=99_999, images=1, images_present=1, images_absent=0, duplicates=0, manifest=""
    )
    assert str(whole) == "99,999 of 100,000 (99.9 %)"
    assert str(dataclasses.replace(whole, pairs_used=100_000)) == "100,000 of 100,000 (100.0 %)"
    assert json.loads(json.dumps(dataclasses.asdict(whole)))["pairs_used"] == 99_999


def test_used_rows_are_the_chosen_ones():
    rows = UsedRows([{"caption": str(k)} for k in range(9)], np.array([2, 3, 7], np.int32))
    assert [row["caption"] for row in (rows[k] for k in range(len(rows)))] == ["2", "3", "7"]
    with pytest.raises(IndexError):
        rows[3]
    assert rows.dataset_info is None


class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image_id": tfds.features.Text(), "caption": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "validation": self._generate_examples(6)}

    def _generate_examples(self, count):
        yield from ((k, {"image_id": f"{k}", "caption": "c"}) for k in range(count))


@pytest.fixture
def folder(tmp_path):
    Toy(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    return tmp_path / "toy" / "1.0.0"


SLICES = ("train", "train[3:7]", "train[50%:]", "train[:2]+validation[4:]")


def open_toy(folder, split):
    return open_annotations("toy", split, data_dir=folder.parents[1], hint="")


def test_ids_are_read_where_there_is_no_file_of_them(folder):
    for split in SLICES:
        rows = open_toy(folder, split)
        assert row_image_ids(rows).tolist() == [rows[k]["image_id"] for k in range(len(rows))]
    assert row_image_ids([{"image_id": "ä"}, {"image_id": b"b"}]).tolist() == ["ä".encode(), b"b"]


def test_some_rows_know_their_data_set_and_keep_their_own_ids(folder):
    for ids in (None, np.arange(20, dtype=np.uint32)):
        if ids is not None:
            write_image_ids(folder, "train", ids)
        rows = open_toy(folder, "train")
        some = UsedRows(rows, np.array([3, 4, 17], np.int32))
        assert some.dataset_info.full_name == "toy/1.0.0"
        assert row_image_ids(some).tolist() == [rows[k]["image_id"] for k in (3, 4, 17)]


@pytest.mark.parametrize("dtype", [np.uint32, np.bytes_])
def test_ids_come_from_the_file_beside_the_records_in_slices_too(folder, dtype):
    for split in ("train", "validation"):
        stored = row_image_ids(open_toy(folder, split))
        write_image_ids(folder, split, (stored.astype(np.uint32) + 1000).astype(dtype))  # to tell file from records
    for split in SLICES:
        rows = open_toy(folder, split)
        found = annotations.id_bytes(row_image_ids(rows))
        assert found.tolist() == [b"%d" % (int(rows[k]["image_id"]) + 1000) for k in range(len(rows))], split
    assert isinstance(row_image_ids(open_toy(folder, "train[3:7]")), np.memmap)


def test_a_file_of_ids_that_does_not_belong_there_is_refused(folder):
    write_image_ids(folder, "train", np.arange(19, dtype=np.uint32))
    with pytest.raises(
        InputError, match=r"row_image_ids-train\.npy names the images of 19 rows.*has 20.*build it again"
    ):
        row_image_ids(open_toy(folder, "train[:3]"))
    file = folder / "row_image_ids-train.npy"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged.*build it again"):
        row_image_ids(open_toy(folder, "train"))
    assert len(row_image_ids(open_toy(folder, "validation"))) == 6
