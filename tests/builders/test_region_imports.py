"""Importing region features: every format is recognised by its content and gives the very values that were written."""

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import region_dumps

from tfds_builders.region_features import normalise
from tfds_builders.region_features.dump import JoinedDump, first_record
from tfds_builders.region_features.image_sizes import ImageSizes
from tfds_builders.region_features.recognise import recognise


def same_id(p):
    return p.image_id


def coco_id(p):
    return f"COCO_val2014_{int(p.image_id):012d}"


@dataclasses.dataclass
class Format:
    """How a writer's output reads.

    Attributes:
        write: makes the dump and returns its path.
        name: what it must be recognised as.
        background: what the format tells of it.
        probs: what is written of class probabilities, after normalising; None where the format has none.
        stored_id: of a picture.
        sized: whether the format tells sizes.
        tolerance: of features and probabilities, relative; half-precision formats have one.
        flag: what --background has to say.
        rows: those of the written ones that count.
    """

    write: Callable[..., Any]
    name: str
    background: str | None = "absent"
    probs: Callable[..., np.ndarray | None] = lambda p: None
    stored_id: Callable[..., str] = same_id
    sized: bool = True
    tolerance: float = 0
    flag: str | None = None
    rows: Callable[..., Any] = lambda values: values


def first_ten(values):
    return np.pad(values, ((0, 12 - len(values)), (0, 0)), mode="edge")[:10]


CLASSES = lambda p: p.class_probs
UNITER: dict[str, Any] = {
    "background": None,
    "flag": "first",
    "probs": CLASSES,
    "sized": False,
    "tolerance": 2e-3,
    "rows": first_ten,
    "stored_id": lambda p: f"coco_train2014_{int(p.image_id):012d}",
}
MMF_PROBS = lambda p: region_dumps.mmf_info(p)["cls_prob"]
FORMATS = [
    Format(region_dumps.butd_tsv, "bottom-up-attention TSV"),
    Format(region_dumps.vilbert_tsv, "ViLBERT TSV", "first", CLASSES),
    Format(region_dumps.lxmert_tsv, "LXMERT TSV", stored_id=coco_id),
    Format(region_dumps.volta_tsv, "volta TSV", None, CLASSES, coco_id, flag="last"),
    Format(region_dumps.vinvl_tsv, "VinVL TSV", sized=False),
    Format(region_dumps.vinvl_captioning_tsv, "VinVL captioning TSV", sized=False),
    Format(region_dumps.vinvl_objects_tsv, "VinVL scene-graph TSV", sized=False),
    Format(region_dumps.beta_lmdb, "ViLBERT-beta LMDB", "first", CLASSES),
    Format(region_dumps.beta_lmdb_without_classes, "ViLBERT-beta LMDB"),
    Format(region_dumps.multi_task_lmdb, "multi-task ViLBERT LMDB"),
    Format(region_dumps.volta_lmdb, "volta LMDB", None, CLASSES, flag="last"),
    Format(region_dumps.mmf_lmdb, "MMF LMDB", probs=MMF_PROBS, stored_id=lambda p: f"train/{p.image_id}"),
    Format(region_dumps.tensorpack_lmdb, "tensorpack LMDB", "first", CLASSES),
    Format(region_dumps.tensorpack_pickle_lmdb, "tensorpack LMDB", "first", CLASSES),
    Format(region_dumps.uniter_lmdb, "UNITER LMDB", **UNITER),
    Format(region_dumps.uniter_msgpack_lmdb, "UNITER LMDB", **UNITER),
    Format(region_dumps.uniter_folder, "UNITER folder", **UNITER),
    Format(region_dumps.mmf_folder, "MMF folder", probs=MMF_PROBS, stored_id=lambda p: f"train/{p.image_id}"),
    Format(region_dumps.multi_task_folder, "multi-task folder", "first", CLASSES),
    Format(region_dumps.vinvl_folder, "VinVL folder", sized=False),
    Format(region_dumps.milvlg_folder, "MILVLG folder"),
    Format(region_dumps.volta_hdf5, "volta HDF5", None, CLASSES, flag="last"),
    Format(region_dumps.rows_hdf5, "hengyuan-hu HDF5"),
]


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.write.__name__)
def test_values_come_out_as_they_were_written(kind, tmp_path):
    made = region_dumps.pictures(boxes=4 if kind.write is region_dumps.rows_hdf5 else None)
    dump = recognise(str(kind.write(tmp_path, made)))
    assert dump.traits.format.startswith(kind.name)
    assert dump.traits.background == kind.background
    assert dump.traits.has_sizes == kind.sized
    sizes = None
    if not kind.sized:
        table = [(kind.stored_id(p), p.width, p.height) for p in made]
        sizes = ImageSizes(str(region_dumps.image_sizes(tmp_path, table)))
    background = normalise.decide_background(dump.traits, kind.flag)
    rules = normalise.Rules(traits=dump.traits, background=background, image_sizes=sizes)
    for records in (1, 2, 1000):
        parts = pickle.loads(pickle.dumps(dump.parts(records)))
        assert len(parts) >= len(made) / (2 * records)
        read = [
            normalise.normalise(raw, rules) for part in parts for raw in pickle.loads(pickle.dumps(dump)).read(part)
        ]
        assert [clipped for _, clipped in read] == [0] * len(made)
        found = {record.image_id: record for record, _ in read}
        assert len(found) == len(read)
        assert set(found) == {kind.stored_id(p) for p in made}
        for p in made:
            compare(found[kind.stored_id(p)], p, kind)
    assert first_record(dump).image_id in found


def compare(record, p, kind):
    assert (record.width, record.height) == (p.width, p.height)
    pixels = 0.3 if kind.tolerance else 0 if kind.sized else 1e-3  # half-precision fractions, fractions, pixels
    np.testing.assert_allclose(record.boxes, kind.rows(p.boxes), atol=pixels, rtol=0)
    np.testing.assert_allclose(record.features, kind.rows(p.features), rtol=kind.tolerance)
    expected = kind.probs(p)
    if expected is None:
        assert record.class_probs is None
    else:
        np.testing.assert_allclose(record.class_probs, kind.rows(expected), rtol=kind.tolerance)
    for values in (record.boxes, record.features):
        assert values.dtype == np.float32


def test_a_pattern_joins_files_of_one_format(tmp_path):
    made = region_dumps.pictures(6)
    for name, some in (("a", made[:3]), ("b", made[3:])):
        (tmp_path / name).mkdir()
        region_dumps.vilbert_tsv(tmp_path / name, some)
    for source in (str(tmp_path / "*" / "CC.tsv.0"), str(tmp_path)):
        dump = recognise(source)
        assert isinstance(dump, JoinedDump)
        read = [raw.image_id for part in dump.parts(2) for raw in dump.read(part)]
        assert read == [p.image_id for p in made]


def test_names_of_files_decide_nothing(tmp_path):
    made = region_dumps.pictures(2)
    renamed = region_dumps.vilbert_tsv(tmp_path, made).rename(tmp_path / "x.lmdb")
    assert recognise(str(renamed)).traits.format.startswith("ViLBERT TSV")
    renamed = region_dumps.tensorpack_lmdb(tmp_path, made).rename(tmp_path / "x.tsv")
    assert recognise(str(renamed)).traits.format.startswith("tensorpack")


def test_numbers_as_ids(tmp_path):
    made = region_dumps.pictures(2)
    dump = recognise(str(region_dumps.lxmert_tsv(tmp_path, made)))
    rules = normalise.Rules(traits=dump.traits, background="absent", numbers_as_ids=True)
    raw = first_record(dump)
    assert normalise.normalise(raw, rules)[0].image_id == made[0].image_id
    assert normalise.stored_id(raw._replace(image_id="train/000000000042"), rules) == "42"
