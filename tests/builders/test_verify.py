"""`build.py verify`: shards and their records; every kind of damage is named, and the rest is read."""

import dataclasses
import functools
import json
import shutil
import zlib

import numpy as np
import pytest
from toy_sets import (
    CONTRACT,
    FIRST,
    PER_SHARD,
    SECOND,
    STORAGE,
    TEST,
    RebuiltStore,
    ToyCaptions,
    ToyStore,
    bad,
    build,
    flip,
    make_record,
    truncate,
    without_checksums,
)

from tfds_builders import build as command
from tfds_builders import verify_store
from tfds_builders.verify_shard import check_example
from vilbert_jax.data.region_codec import encode_record
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
def verify(capsys):
    """Runs the command; gives its exit code and the lines it said."""

    def run(folder, *options):
        capsys.readouterr()
        code = command.main(["build.py", "verify", str(folder), *options])
        return code, capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("kind", [ToyStore, RebuiltStore, ToyCaptions])
@pytest.mark.parametrize("quick", [False, True])
def test_whole_data_sets_are_good(built, verify, kind, quick):
    code, lines = verify(built(kind), *["--quick"] * quick)
    assert code == 0
    assert not bad(lines)
    records_there, shards = (30, 1) if kind is ToyCaptions else (3 * PER_SHARD, 3)
    assert f"{records_there} records in {shards} shards" in lines[0]
    read = f"first and last record of each shard ({2 * shards})" if quick else f"all {records_there} records"
    assert read in lines[-1]


def test_checksums_are_those_of_the_files(built):
    folder = built(ToyStore)
    stored = json.loads((folder / "checksums.json").read_text())["files"]
    assert set(stored) == {TEST, FIRST, SECOND, "image_ids.npy", "image_rows.npy"}
    for name, known in stored.items():
        content = (folder / name).read_bytes()
        assert known == {"num_bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}


def test_a_data_set_without_checksums_is_checked_by_its_contents(store, verify):
    without_checksums(store)
    code, lines = verify(store)
    assert code == 0
    assert "no checksums.json: the data set was built before there were any" in lines[1]
    flip(store / SECOND)
    code, lines = verify(store)
    assert code == 1
    assert list(bad(lines)) == [SECOND]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_flipped_bit_names_shard_and_record_and_the_rest_is_read(store, verify, processes, monkeypatch):
    monkeypatch.setattr(verify_store, "available_processes", lambda: processes)
    monkeypatch.setattr(verify_store, "_WORTH_PROCESSES", 0)
    flip(store / FIRST)
    flip(store / TEST)
    code, lines = verify(store)
    assert code == 1
    found = bad(lines)
    assert set(found) == {FIRST, TEST}
    for problems in found.values():
        assert problems[0].startswith("was changed: its CRC-32 is ")
        assert problems[1].startswith("record ")
        assert "hash mismatch" in problems[1]
    assert f"2 of {3 * PER_SHARD} records cannot be used" in lines[-1]
    number = int(found[FIRST][1].split(":")[0].removeprefix("record "))
    with pytest.raises(DamagedError, match=rf"{FIRST} has a record {number}, image 'a-{number:03d}'.*build.py verify"):
        RegionStore(store)[f"a-{number:03d}"]


def test_a_flipped_bit_that_no_record_needs_is_found_by_the_checksum(store, verify):
    flip(store / FIRST, at=(store / FIRST).stat().st_size - 10)
    code, lines = verify(store)
    assert code == 1
    assert list(bad(lines)) == [FIRST]
    assert f"0 of {3 * PER_SHARD} records cannot be used" in lines[-1]
    assert verify(store, "--quick")[0] == 0


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("size", [0, 1000, 65536, 70000])
def test_a_truncated_shard(store, verify, size, checksums, quick):
    if not checksums:
        without_checksums(store)
    truncate(store / FIRST, size)
    code, lines = verify(store, *["--quick"] * quick)
    assert code == 1
    assert set(bad(lines)) == {FIRST} if checksums else {FIRST, "shards of split 'train'"}
    assert f"{PER_SHARD} of {3 * PER_SHARD} records cannot be used" in lines[-1]
    with pytest.raises(DamagedError, match=rf"{FIRST} has a record 0, image 'a-000', that cannot be read"):
        RegionStore(store)["a-000"]
    assert RegionStore(store)["b-000"].image_id == "b-000"


def test_a_missing_shard(store, verify):
    (store / SECOND).unlink()
    code, lines = verify(store)
    assert code == 1
    assert bad(lines) == {SECOND: ["is missing"]}
    with pytest.raises(DamagedError, match=rf"{SECOND} is missing.*build.py verify"):
        RegionStore(store)


def test_values_that_cannot_be_right_are_found_in_stored_examples():
    def example(**changes):
        made = encode_record(make_record("x"), CONTRACT, STORAGE) | {"image_id": b"x"}
        return {name: np.copy(value) if isinstance(value, np.ndarray) else value for name, value in made.items()} | {
            name: change(np.copy(made[name])) for name, change in changes.items()
        }

    def put(value, *at):
        def change(array):
            array[at] = value
            return array

        return change

    check_example(example(), CONTRACT, STORAGE)
    for changes, message in [
        ({"num_boxes": lambda count: count + 1}, "num_boxes is"),
        ({"feature_scales": put(np.nan, 0)}, "features holds NaN or infinity"),
        ({"boxes": put(500, 0, 2)}, "box 0 is"),
        ({"class_ids": put(5, 0, 0)}, "there are 5 classes"),
        ({"class_ids": put(-1, 0, 0)}, "there are 5 classes"),
        ({"class_ids": lambda ids: np.repeat(ids[:, :1], 3, axis=1)}, "a class occurs twice"),
        ({"class_probs": put(np.float16(np.inf), 0, 0)}, "class_probs holds NaN or infinity"),
        ({"class_probs": put(np.float16(-0.5), 0, 0)}, "class probabilities lie between"),
        ({"width": lambda width: 0 * width}, "size is 0 x 80"),
    ]:
        with pytest.raises(InputError, match=f"image 'x': .*{message}"):
            check_example(example(**changes), CONTRACT, STORAGE)
    wider = dataclasses.replace(CONTRACT, feature_dim=32)
    with pytest.raises(InputError, match="features has shape"):
        check_example(example(), wider, STORAGE)


def test_a_store_of_another_contract_says_so_of_its_records(store, verify):
    metadata = json.loads((store / "metadata.json").read_text())
    metadata["feature_contract"]["feature_dim"] = 65
    (store / "metadata.json").write_text(json.dumps(metadata))
    code, lines = verify(store)
    assert code == 1
    problems = bad(lines)[FIRST]
    assert problems[0].startswith("record 0: image 'a-000': features has shape")
    assert problems[-1] == f"and {PER_SHARD - 3} more records like these"
    assert "120 of 120 records cannot be used" in lines[-1]
