"""`build.py verify`: what lies beside the shards, index and descriptions, and sets of annotations."""

import functools
import pickle
import shutil

import numpy as np
import pytest
from toy_sets import (
    FIRST,
    PER_SHARD,
    SECOND,
    RebuiltStore,
    ToyCaptions,
    ToyStore,
    bad,
    build,
    flip,
    truncate,
    without_checksums,
)

from tfds_builders import build as command
from vilbert_jax.data.region_files import DamagedError
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return functools.lru_cache(lambda kind: build(kind, tmp_path_factory.mktemp("built")))


@pytest.fixture
def store(built, tmp_path):
    """A copy of the store that a test may damage."""
    return shutil.copytree(built(ToyStore), tmp_path / "store")


@pytest.fixture
def captions(built, tmp_path):
    return shutil.copytree(built(ToyCaptions), tmp_path / "captions")


@pytest.fixture
def verify(capsys):
    """Runs the command; gives its exit code and the lines it said."""

    def run(folder, *options):
        capsys.readouterr()
        code = command.main(["build.py", "verify", str(folder), *options])
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("name", ["image_ids.npy", "image_rows.npy"])
@pytest.mark.parametrize("size", [0, 60, 300, None])
def test_a_truncated_or_missing_index(store, verify, name, size):
    if size is None:
        (store / name).unlink()
    else:
        truncate(store / name, size)
    code, lines = verify(store)
    assert code == 1
    assert set(bad(lines)) == {name}
    assert f"0 of {3 * PER_SHARD} records cannot be used" in lines[-1]  # they were read all the same
    without_checksums(store)
    code, lines = verify(store)
    assert code == 1
    assert set(bad(lines)) == {name}
    with pytest.raises(DamagedError, match=rf"{name} is (damaged|missing).*build.py verify"):
        RegionStore(store)


def swapped(rows, ids):
    rows[[3, 5]] = rows[[5, 3]]


def out_of_range(rows, ids):
    rows[7] = 1 << 40


def repeated(rows, ids):
    rows[0] = rows[1]


def renamed(rows, ids):
    ids[9] = b"nobody"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "give row 45 for 'a-003', but that record is of 'a-005' (2 such entries)"),
        (out_of_range, "entry 7 is row 1099511627776, there are 120 (1 such entries)"),
        (out_of_range, "record 47 is in no entry (1 such records)"),
        (repeated, "record 40 is in no entry (1 such records)"),
        (renamed, "give row 49 for 'nobody'"),
        (renamed, "is not sorted: entry 10, 'a-010', follows 'nobody'"),
    ],
)
def test_an_index_of_other_records(store, verify, change, message):
    ids, rows = (np.load(store / name) for name in ("image_ids.npy", "image_rows.npy"))
    ids = ids.astype("S6")
    change(rows, ids)
    np.save(store / "image_ids.npy", ids)
    np.save(store / "image_rows.npy", rows)
    without_checksums(store)
    code, lines = verify(store)
    assert code == 1
    assert any(message in line for line in lines), lines
    assert f"0 of {3 * PER_SHARD} records cannot be used" in lines[-1]


def test_an_index_row_out_of_range_is_one_error(store):
    rows = np.load(store / "image_rows.npy")
    rows[7] = 1 << 40
    np.save(store / "image_rows.npy", rows)
    with pytest.raises(DamagedError, match=r"image_rows\.npy gives row 1099511627776 for 'a-007', there are 120"):
        RegionStore(store)["a-007"]


def test_an_index_of_another_length(store, verify):
    for name in ("image_ids.npy", "image_rows.npy"):
        np.save(store / name, np.load(store / name)[:-1])
    without_checksums(store)
    code, lines = verify(store)
    assert code == 1
    assert "names 119 images, there are 120 records" in bad(lines)["image_ids.npy"]
    with pytest.raises(DamagedError, match="names 119 images, but there are 120 records"):
        RegionStore(store)


def test_an_image_that_occurs_twice(store, verify):
    shutil.copy(store / FIRST, store / SECOND)
    without_checksums(store)
    code, lines = verify(store)
    assert code == 1
    assert bad(lines)["records"] == ["image id 'a-000' occurs more than once (40 such ids)"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.json", b"{"),
        ("metadata.json", b"{}"),
        ("metadata.json", b"[1]"),
        ("metadata.json", b"\xff\xfe"),
        ("metadata.json", b'{"feature_contract": {}, "storage": {}}'),
        ("metadata.json", b'{"feature_contract": [1], "storage": "float16"}'),
        ("dataset_info.json", b""),
        ("dataset_info.json", b'{"name": '),
        ("features.json", b"["),
        ("checksums.json", b'{"files": [1]}'),
    ],
)
def test_damaged_descriptions(store, verify, name, content):
    (store / name).write_bytes(content)
    flip(store / FIRST)
    code, lines = verify(store)
    assert code == 1
    assert any(name in file for file in bad(lines))
    assert FIRST in bad(lines), "the shards are looked at all the same"
    if name != "checksums.json":
        with pytest.raises(InputError, match=r"metadata|dataset_info\.json"):
            RegionStore(store)


def test_a_lost_classifier(built, verify, tmp_path):
    folder = shutil.copytree(built(RebuiltStore), tmp_path / "rebuilt")
    truncate(folder / "classifier.npz", 200)
    assert any("has 200 bytes" in problem for problem in bad(verify(folder)[1])["classifier.npz"])
    without_checksums(folder)
    code, lines = verify(folder)
    assert code == 1
    assert list(bad(lines)) == ["classifier.npz"]
    with pytest.raises(DamagedError, match=r"classifier\.npz cannot be read"):
        RegionStore(folder)


def test_damaged_annotations(captions, verify):
    shard = next(path.name for path in captions.iterdir() if "array_record" in path.name)
    flip(captions / shard, at=200)
    ids = np.load(captions / "row_image_ids-train.npy")
    ids[[20, 21]] = b"zzz"
    np.save(captions / "row_image_ids-train.npy", ids)
    code, lines = verify(captions)
    assert code == 1
    found = bad(lines)
    assert set(found) == {shard, "row_image_ids-train.npy"}
    assert any("hash mismatch" in problem for problem in found[shard])
    assert "row 20 is of image 'zzz' here, of 'a-010' in its record (2 such rows)" in found["row_image_ids-train.npy"]
    np.save(captions / "row_image_ids-train.npy", ids[:-1])
    assert "names the images of 29 rows, split 'train' has 30" in bad(verify(captions)[1])["row_image_ids-train.npy"]
    truncate(captions / "row_image_ids-train.npy", 100)
    without_checksums(captions)
    assert "is damaged" in bad(verify(captions)[1])["row_image_ids-train.npy"][0]


def test_no_data_set_at_all(tmp_path, capsys):
    for name in ("verify", "inspect"):
        assert command.main(["build.py", name, str(tmp_path / "nowhere")]) == 2
        assert command.main(["build.py", name, str(tmp_path)]) == 2
        assert "no data set at" in capsys.readouterr().err


def test_damage_arrives_from_other_processes_as_itself(tmp_path):
    error = pickle.loads(pickle.dumps(DamagedError(tmp_path, "a.npy", "is missing")))
    assert (error.file, error.problem) == ("a.npy", "is missing")
    assert str(error) == str(DamagedError(tmp_path, "a.npy", "is missing"))
