"""What an extraction leaves: the store, and lists of what went wrong."""

import numpy as np
import pytest
from toy_extraction import CONTRACT, PICTURES_A_PART, ToyExtractor, ToySource, extract, extracted_from

from tfds_builders.region_features import extracted
from vilbert_jax.data.annotations import open_regions
from vilbert_jax.data.region_codec import Storage, decode_example, encode_record
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.extraction import run


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(run, "_PICTURES_A_PART", PICTURES_A_PART)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "region_features" / "toy"
    source = ToySource()
    return output, source, extract(source, output)


def test_the_store_has_every_readable_picture_as_the_extractor_gave_it(uninterrupted):
    output, source, _ = uninterrupted
    store = RegionStore(output)
    assert store.contract == CONTRACT
    assert store.storage == Storage()
    assert store.image_ids == sorted(source.set.image_ids[k] for k in source.good)
    for number in source.good:
        image_id = source.set.image_ids[number]
        record = extracted_from(ToyExtractor().ready(image_id, source.set.read(number))).record
        expected = decode_example({**encode_record(record, CONTRACT, Storage()), "image_id": image_id.encode()})
        found = store.stored(image_id)
        for name, value in expected._asdict().items():
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_records_are_in_the_order_of_the_pictures(uninterrupted):
    output, source, _ = uninterrupted
    store = RegionStore(output)
    (rows,) = store._sources
    ids = [rows[k]["image_id"].decode() for k in range(len(rows))]
    assert ids == [source.set.image_ids[k] for k in source.good] != sorted(ids)


def test_recipes_find_it_by_name(uninterrupted):
    output, source, _ = uninterrupted
    store = open_regions("region_features/toy", data_dir=output.parents[1], hint="")
    assert len(store) == len(source.good)


def test_what_is_said_and_listed(uninterrupted):
    output, source, said = uninterrupted
    assert (output / "unreadable.tsv").read_text().splitlines() == [
        "file\treason",
        *(f"{source.set.names[k]}\tnumber {k} is damaged" for k in (3, 4, 20)),
    ]
    assert (
        output / "fell_short.tsv"
    ).read_text() == f"image_id\tfile\n{source.set.image_ids[7]}\t{source.set.names[7]}\n"
    assert said == [
        f"3 of 21 pictures cannot be used; {output / 'unreadable.tsv'} lists them",
        "in 1 pictures nothing reached what the selection rule asks for, and the best of the rest was kept; "
        f"{output / 'fell_short.tsv'} lists them",
        f"{output}: regions of 18 pictures",
    ]


def test_nothing_else_is_left(uninterrupted):
    output, _, _ = uninterrupted
    assert {p.name for p in output.iterdir()} == {"1.0.0", "unreadable.tsv", "fell_short.tsv"}


def test_every_picture_is_read_once(uninterrupted, tmp_path):
    source = ToySource()
    extract(source, tmp_path / "store")
    assert sorted(source.loads) == list(range(21))


def test_a_finished_store_is_left_alone(uninterrupted):
    output, _, _ = uninterrupted
    source = ToySource()
    before = RegionStore(output).fingerprint
    assert extract(source, output) == [f"{output} is complete already; delete it to extract again"]
    assert not source.loads
    assert RegionStore(output).fingerprint == before


def test_without_problems_there_are_no_lists(tmp_path):
    said = extract(ToySource(count=5, bad=()), tmp_path / "store")
    assert said == [f"{tmp_path / 'store'}: regions of 5 pictures"]
    assert not list((tmp_path / "store").glob("*.tsv"))


def test_features_as_float16(tmp_path):
    source = ToySource(count=3, bad=())
    extract(source, tmp_path / "store", storage=Storage(features="float16"))
    store = RegionStore(tmp_path / "store")
    expected = extracted_from(ToyExtractor().ready("", source.set.read(2))).record
    np.testing.assert_array_equal(store[source.set.image_ids[2]].features, expected.features.astype(np.float16))


def test_reading_stays_a_bounded_way_ahead(tmp_path):
    source, furthest = ToySource(count=60, bad=()), []

    class Slow(ToyExtractor):
        def extract_ready(self, pictures):
            for number, found in enumerate(super().extract_ready(pictures)):
                furthest.append(len(source.loads) - number)
                yield found

    extract(source, tmp_path / "store", Slow(), num_readers=3)
    assert max(furthest) <= 2 * 3 + 3  # twice the readers, and what the toy holds back


def test_pictures_that_are_all_unreadable(tmp_path):
    source = ToySource(count=6, bad=range(6))
    with pytest.raises(InputError, match="none of the 6 pictures can be used; .*unreadable.tsv says why"):
        extract(source, tmp_path / "store")
    assert len((tmp_path / "store" / "unreadable.tsv").read_text().splitlines()) == 7
    source.bad = {0}  # they were repaired; the next run looks again
    extract(source, tmp_path / "store")
    assert len(RegionStore(tmp_path / "store")) == 5


def test_a_record_that_cannot_be_stored_is_listed(tmp_path):
    ids = ("good", "x" * 300, "also good")
    extract(ToySource(ids=ids, bad=()), tmp_path / "store")
    assert RegionStore(tmp_path / "store").image_ids == ["also good", "good"]
    assert "is longer than 255 bytes" in (tmp_path / "store" / "unreadable.tsv").read_text()


def test_large_extractions_have_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(extracted, "_BYTES_A_SHARD", 1)
    source = ToySource()
    extract(source, tmp_path / "store")
    assert len(list((tmp_path / "store" / "1.0.0").glob("*.array_record*"))) == 6
    assert len(RegionStore(tmp_path / "store")) == len(source.good)
