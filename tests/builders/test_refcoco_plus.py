"""RefCOCO+ and its relatives from files in the layout of REFER: every value, the order, the splits, what is refused."""

import hashlib
import json
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
import refer_toys
from refer_toys import annotation, ref, sentence

from tfds_builders import build, refcoco_plus, testing
from tfds_builders.refcoco_plus import refcoco_plus_dataset_builder as builder_module
from tfds_builders.refcoco_plus.refcoco_plus_dataset_builder import Counts
from vilbert_jax.data.annotations import metadata, open_annotations, row_image_ids

CONFIG = "refcoco_plus/refcoco_plus"


def annotations():
    return [
        annotation(12, 990002, [0, 0, 100, 50.5]),
        annotation(11, 990001, [10.5, 20.25, 30.0, 40.0]),
        annotation(99, 990003, [1, 2, 0, 0], iscrowd=1),  # nobody speaks of it
        annotation(13, 990003, [5, 6, 7, 8]),
        annotation(14, 990004, [3, 4, 50, 60]),
    ]


def refs():
    """Not sorted by anything."""
    return [
        ref(7, "train", [sentence(31, "Red hat ,  no "), sentence(30, 'the "café"')], ann_id=11, image_id=990001),
        ref(2, "testB", [sentence(9, "bench")], ann_id=14, image_id=990004),
        ref(5, "testA", [sentence(8, "man"), sentence(3, "")], ann_id=13, image_id=990003),
        ref(1, "val", [sentence(0, "dog")], ann_id=12, image_id=990002),
        ref(0, "train", [sentence(4, "scarf")], ann_id=11, image_id=990001),
    ]


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "manual"
    refer_toys.write(folder / "refcoco+", refs(), annotations())
    return folder


def run(manual, data_dir, name=CONFIG):
    """Builds by the command line, as users do."""
    return build.main(["build.py", name, f"--manual_dir={manual}", f"--data_dir={data_dir}"])


def read(data_dir, split, name=CONFIG):
    rows = open_annotations(name, split, data_dir=data_dir, hint="")
    return rows, [rows[k] for k in range(len(rows))]


def sentences(data_dir, split, name=CONFIG):
    return [example["sentence"].decode() for example in read(data_dir, split, name)[1]]


class ReferTest(testing.BuilderTest):
    """The files in dummy_data."""

    BUILDER = refcoco_plus.Builder
    SPLITS: ClassVar[Any] = {
        "refcoco_plus": {"train": 3, "validation": 1, "testA": 2, "testB": 3},
        "refcoco": {"train": 3, "validation": 1, "testA": 2, "testB": 3},
        "refcocog": {"train": 2, "validation": 1, "test": 3},
    }
    UNIQUE: ClassVar[Any] = {"refcoco_plus": "sent_id", "refcoco": "sent_id", "refcocog": "sent_id"}
    APART = "image_id"

    def check_example(self, example, config):
        assert example["box"].dtype == np.float32
        assert (example["box"][2:] > 0).all()
        assert example["image_id"].startswith(b"99000")


def test_every_value_arrives_in_the_order_of_the_refs(manual, tmp_path):
    assert run(manual, tmp_path / "data") == 0
    rows, train = read(tmp_path / "data", "train")
    assert [(e["sent_id"], e["ref_id"], e["sentence"].decode()) for e in train] == [
        (31, 7, "Red hat ,  no "),  # raw, and neither lower-cased nor cut
        (30, 7, 'the "café"'),
        (4, 0, "scarf"),
    ]
    for example in train:
        assert example["image_id"] == b"990001"  # of the field, not of the file name with its extra number
        np.testing.assert_array_equal(example["box"], np.array([10.5, 20.25, 30, 40], np.float32))
    assert row_image_ids(rows).tolist() == [b"990001"] * 3
    assert sentences(tmp_path / "data", "testA") == ["man", ""]
    assert sentences(tmp_path / "data", "testB") == ["bench"]
    _, (validation,) = read(tmp_path / "data", "validation")
    assert validation["box"].tolist() == [0, 0, 100, 50.5]


def test_metadata_says_what_was_read(manual, tmp_path):
    assert run(manual, tmp_path / "data") == 0
    noted = metadata(read(tmp_path / "data", "train")[0])
    assert noted["box"] == "xywh pixels"
    assert noted["counts"]["train"] == {"sentences": 3, "refs": 2, "images": 1}
    assert noted["published"]["testA"] == {"sentences": 5726, "refs": 1975, "images": 750}
    content = (manual / "refcoco+" / "refs(unc).p").read_bytes()
    assert noted["files"]["refs"] == {
        "name": "refs(unc).p",
        "rows": 5,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert noted["files"]["instances"]["rows"] == 5


def test_published_numbers_add_up():
    """Of the parts that were published one by one, the sums were published too."""
    published = {c.name: list(zip(*c.published.values(), strict=True)) for c in refcoco_plus.Builder.BUILDER_CONFIGS}
    sums = {name: [sum(column) for column in columns] for name, columns in published.items()}
    assert sums["refcoco_plus"] == [141_564, 49_856, 19_992]
    assert sums["refcoco"][1:] == [50_000, 19_994]
    assert sums["refcocog"] == [95_010, 49_822, 25_799]


def test_other_numbers_than_the_published_ones_are_a_warning(manual, tmp_path, capsys, monkeypatch):
    config = next(c for c in refcoco_plus.Builder.BUILDER_CONFIGS if c.name == "refcoco_plus")
    real = {"testA": Counts(2, 1, 1), "testB": Counts(1, 1, 1), "validation": Counts(1, 1, 1), "train": Counts(3, 3, 1)}
    monkeypatch.setattr(config, "published", real)
    assert run(manual, tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert "train: 3 sentences about 2 things in 1 images in " in said
    warnings = [line for line in said.splitlines() if line.startswith("warning")]
    assert warnings == ["warning: the published train split has 3 sentences about 3 things in 1 images"]


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_python_3_do_too(protocol, manual, tmp_path):
    (manual / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(refs(), protocol=protocol))
    assert run(manual, tmp_path / "data") == 0
    assert sentences(tmp_path / "data", "train") == ["Red hat ,  no ", 'the "café"', "scarf"]


def test_text_stays_as_the_released_code_reads_it(manual, tmp_path):
    """Bytes of Python 2 come as latin-1, whatever they were meant to be."""
    made = refs()
    made[4]["sentences"][0]["raw"] = "café".encode().decode("latin1")
    refer_toys.write(manual / "refcoco+", made, annotations())
    assert run(manual, tmp_path / "data") == 0
    assert sentences(tmp_path / "data", "train")[2] == "cafÃ©"


def test_the_letter_of_a_test_split_decides(manual, tmp_path, capsys):
    made = refs()
    made[1]["split"] = "testAB"
    refer_toys.write(manual / "refcoco+", made[:3], annotations())
    assert run(manual, tmp_path / "data") == 0
    assert sentences(tmp_path / "data", "testA") == ["bench", "man", ""]
    assert sentences(tmp_path / "data", "testB") == ["bench"]
    assert "there will be no split validation" in capsys.readouterr().err


def test_refcocog_has_one_test_split(tmp_path):
    made = [ref(k, split, [sentence(k, split)], ann_id=11, image_id=990001) for k, split in enumerate(
        ["test", "train", "val"])]  # fmt: skip
    refer_toys.write(tmp_path / "refcocog", made, annotations(), name="refs(umd).p")
    assert run(tmp_path, tmp_path / "data", "refcoco_plus/refcocog") == 0
    for split, text in {"train": "train", "validation": "val", "test": "test"}.items():
        assert sentences(tmp_path / "data", split, "refcoco_plus/refcocog") == [text]


def test_shards_keep_the_order_and_pickle(manual, tmp_path, monkeypatch):
    monkeypatch.setattr(builder_module, "_SENTENCES_A_SHARD", 2)
    assert run(manual, tmp_path / "data") == 0
    assert sentences(tmp_path / "data", "train") == ["Red hat ,  no ", 'the "café"', "scarf"]
    assert len(list((tmp_path / "data" / CONFIG / "1.0.0").glob("*train.array_record*"))) == 2
    said = builder_module.refer_files.Sentence(1, 2, 3, "x", (0, 0, 1, 1))
    (shard,) = builder_module._shards([builder_module.Ref("train", [said])])
    ((key, example),) = pickle.loads(pickle.dumps(shard))()
    assert (key, example["sent_id"], example["image_id"]) == (1, 1, "3")


def broken(change):
    """Refs and annotations after a change."""
    made = {"refs": refs(), "annotations": annotations()}
    change(made["refs"], made["annotations"])
    return made


REFUSED = {
    "unknown annotation": (lambda r, a: r[1].update(ann_id=77), "refs[1] (ref_id 2): ", "has no annotation 77"),
    "another image": (
        lambda r, a: a[4].update(image_id=5),
        "refs[1] (ref_id 2): image_id is 990004, but 5 in ",
        "instances.json: annotations[4] (id 14)",
    ),
    "sentence twice": (
        lambda r, a: r[2]["sentences"][1].update(sent_id=30),
        "refs[2] (ref_id 5): sentences[1]: sent_id 30 is also in ref_id 7",
    ),
    "ref twice": (lambda r, a: r[4].update(ref_id=7), "refs[4] (ref_id 7): this ref_id is also that of refs[0]"),
    "annotation twice": (lambda r, a: a[4].update(id=11), "annotations[4]: id 11 is also that of annotations[1]"),
    "three numbers": (lambda r, a: a[3].update(bbox=[1, 2, 3]), "annotations[3] (id 13): bbox is [1, 2, 3]; expected"),
    "no list": (lambda r, a: a[3].update(bbox=None), "annotations[3] (id 13): bbox is None; expected"),
    "not a number": (lambda r, a: a[3].update(bbox=[1, 2, "3", 4]), "annotations[3] (id 13): bbox is"),
    "NaN": (lambda r, a: a[3].update(bbox=[1, float("nan"), 3, 4]), "four finite numbers"),
    "infinite": (lambda r, a: a[3].update(bbox=[1, 2, float("inf"), 4]), "four finite numbers"),
    "huge": (lambda r, a: a[3].update(bbox=[1, 2, 10**400, 4]), "four finite numbers"),
    "true": (lambda r, a: a[3].update(bbox=[True, 2, 3, 4]), "four finite numbers"),
    "no area": (lambda r, a: a[3].update(bbox=[1, 2, 0, 4]), "annotations[3] (id 13): bbox [1, 2, 0, 4] has no area"),
    "negative": (lambda r, a: a[3].update(bbox=[1, 2, 5, -4]), "has no area"),
    "vanishing": (lambda r, a: a[3].update(bbox=[1, 2, 5, 1e-60]), "has no area"),
    "no ann_id": (lambda r, a: r[3].pop("ann_id"), "refs[3]: has no ann_id; it has "),
    "no raw": (lambda r, a: r[2]["sentences"][0].pop("raw"), "refs[2] (ref_id 5): sentences[0]: has no raw"),
    "raw is a number": (lambda r, a: r[0]["sentences"][1].update(raw=5), "sentences[1]: raw is 5; expected text"),
    "no sentences": (lambda r, a: r[0].update(sentences=[]), "refs[0]: sentences is []; expected a list"),
    "text for a number": (lambda r, a: r[0].update(image_id="1"), "refs[0]: image_id is '1'; expected a whole number"),
    "negative sent_id": (lambda r, a: r[1]["sentences"][0].update(sent_id=-1), "sent_id is -1"),
    "split": (lambda r, a: r[3].update(split="test"), "refs[3] (ref_id 1): split is 'test', which is none of"),
    "split is a number": (lambda r, a: r[3].update(split=1), "refs[3]: split is 1; expected text"),
    "no bbox": (lambda r, a: a[2].pop("bbox"), "annotations[2]: has no bbox"),
    "annotation is a list": (lambda r, a: a.append([]), "annotations[5]: expected a record with id, image_id, bbox"),
    "ref is a number": (lambda r, a: r.append(5), "refs[5]: expected a record with ref_id"),
    "no annotations": (lambda r, a: a.clear(), "a list 'annotations' that is not empty"),
    "no refs": (lambda r, a: r.clear(), "refs(unc).p is no REFER file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_record_that_cannot_be_used_is_named(name, tmp_path, capsys):
    change, *messages = REFUSED[name]
    refer_toys.write(tmp_path / "refcoco+", **broken(change))
    assert run(tmp_path, tmp_path / "data") == 2
    said = capsys.readouterr().err
    for message in messages:
        assert message in said
    assert f"{tmp_path / 'refcoco+'}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "data" / CONFIG / "1.0.0").exists()


class Hostile:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("refs(unc).p", pickle.dumps({"refs": 1}), "refs(unc).p is no REFER file"),
        ("refs(unc).p", pickle.dumps({(1, b"2"): {3}}), "refs(unc).p is no REFER file"),
        ("refs(unc).p", refer_toys.python2_pickle(refs())[:-40], "refs(unc).p: damaged pickle"),
        ("refs(unc).p", pickle.dumps([Hostile()]), "which could run code; it was not run"),
        ("instances.json", b"[]", "instances.json: expected an object with a list 'annotations'"),
        ("instances.json", b'{\n"annotations": [}', "instances.json:2:"),
        ("instances.json", json.dumps({"images": []}).encode(), "found an object with images"),
    ],
)
def test_files_of_another_kind_are_refused(name, content, message, manual, tmp_path, capsys):
    (manual / "refcoco+" / name).write_bytes(content)
    assert run(manual, tmp_path / "data") == 2
    output = capsys.readouterr()
    assert message in output.err
    assert "it ran" not in output.out
    assert "Traceback" not in output.err


@pytest.mark.parametrize("absent", ["refs(unc).p", "instances.json"])
def test_a_missing_file_is_named(absent, manual, tmp_path, capsys):
    (manual / "refcoco+" / absent).unlink()
    assert run(manual, tmp_path / "data") == 2
    said = capsys.readouterr().err
    assert f"{manual / 'refcoco+' / absent} missing" in said
    assert "https://github.com/lichengunc/refer" in said
    assert "refcoco_plus/refcoco_plus" in said
