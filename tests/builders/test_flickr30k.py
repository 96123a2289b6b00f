"""Flickr30k and COCO captions for retrieval: from Karpathy's files and from those of the released code."""

import hashlib
import json
import pickle
import zipfile
from typing import Any, ClassVar

import numpy as np
import pytest

from tfds_builders import build, flickr30k, testing
from tfds_builders.flickr30k import flickr30k_dataset_builder as builder_module
from tfds_builders.flickr30k.caption_files import VILBERT_FILES, Picture
from vilbert_jax.data.annotations import metadata, open_annotations, row_image_ids

FLICKR, COCO = "flickr30k/flickr30k", "flickr30k/coco"


def captions(about, count=5):
    return [f"{about}, said {k} ." for k in range(count)]


def image(split, about, count=5, **more):
    said = [{"tokens": c.split(), "raw": c, "imgid": 0, "sentid": k} for k, c in enumerate(captions(about, count))]
    return {"sentids": list(range(count)), "imgid": 0, "sentences": said, "split": split} | more


def flickr_images():
    """Not sorted by split."""
    return [
        image("test", "Kite  é", filename="1000000003.jpg"),
        image("train", "dog", filename="1000000009.jpg"),
        image("val", 'a "tree"', filename="36990.jpg"),
        image("train", "\u2028 boat ", filename="0000000001.jpg"),
    ]


def coco_images():
    def file(number):
        return {"cocoid": number, "filename": f"COCO_val2014_{number:012d}.jpg", "filepath": "val2014"}

    return [
        image("restval", "cat", 7, **file(990005)),
        image("test", "cup", **file(990002)),
        image("train", "bus", 6, **file(990001)),
        image("val", "bench", **file(990003)),
    ]


def encoded(images, name):
    return json.dumps({"images": images, "dataset": name}, ensure_ascii=False).encode()


def write(folder, images, name="flickr30k"):
    folder.mkdir(exist_ok=True)
    (folder / f"dataset_{name}.json").write_bytes(encoded(images, name))
    return folder


def line(about, count=5, **more):
    return json.dumps({"sentences": captions(about, count), **more}, ensure_ascii=False).encode() + b"\n"


def write_vilbert(folder, **of_split):
    folder.mkdir(exist_ok=True)
    for split, content in of_split.items():
        (folder / VILBERT_FILES[split]).write_bytes(content)
    return folder


def run(manual, data_dir, name=FLICKR):
    """Builds by the command line, as users do."""
    return build.main(["build.py", name, f"--manual_dir={manual}", f"--data_dir={data_dir}"])


def read(data_dir, split, name=FLICKR):
    rows = open_annotations(name, split, data_dir=data_dir, hint="")
    examples = [rows[k] for k in range(len(rows))]
    assert row_image_ids(rows).tolist() == [example["image_id"] for example in examples]
    return {e["image_id"].decode(): [caption.decode() for caption in e["captions"]] for e in examples}


class RetrievalTest(testing.BuilderTest):
    """The files in dummy_data."""

    BUILDER = flickr30k.Builder
    SPLITS: ClassVar[Any] = {
        "flickr30k": {"train": 2, "validation": 1, "test": 1},
        "coco": {"train": 2, "validation": 1, "test": 1},
    }
    UNIQUE: ClassVar[Any] = {"flickr30k": "image_id", "coco": "image_id"}
    APART = "image_id"

    def check_example(self, example, config):
        assert len(set(example["captions"])) == 5
        assert example["image_id"].isdigit()


def test_flickr_pictures_stand_in_the_order_of_the_file(tmp_path):
    manual = write(tmp_path / "manual", flickr_images())
    assert run(manual, tmp_path / "data") == 0
    train = read(tmp_path / "data", "train")
    assert list(train) == ["1000000009", "0000000001"]  # by file, its zeros kept
    assert train["0000000001"] == captions("\u2028 boat ")
    assert read(tmp_path / "data", "validation") == {"36990": captions('a "tree"')}
    assert read(tmp_path / "data", "test") == {"1000000003": captions("Kite  é")}


def test_coco_takes_restval_for_training_and_five_captions(tmp_path, capsys):
    manual = write(tmp_path / "manual", coco_images(), "coco")
    assert run(manual, tmp_path / "data", COCO) == 0
    train = read(tmp_path / "data", "train", COCO)
    assert list(train) == ["990005", "990001"]
    assert train["990005"] == captions("cat", 7)[:5]
    assert read(tmp_path / "data", "validation", COCO) == {"990003": captions("bench")}
    assert read(tmp_path / "data", "test", COCO) == {"990002": captions("cup")}
    noted = metadata(open_annotations(COCO, "train", data_dir=tmp_path / "data", hint=""))
    assert noted["surplus_captions"] == 3
    assert noted["captions_an_image"] == 5
    assert "3 captions beyond the fifth of their image are left out" in capsys.readouterr().err


@pytest.mark.parametrize("inner", ["dataset_flickr30k.json", "caption_datasets/dataset_flickr30k.json"])
def test_the_archive_does_too(inner, tmp_path):
    manual = tmp_path / "manual"
    manual.mkdir()
    content = encoded(flickr_images(), "flickr30k")
    with zipfile.ZipFile(manual / "caption_datasets.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("dataset_flickr8k.json", b"{}")
        packed.writestr(inner, content)
    assert run(manual, tmp_path / "data") == 0
    assert list(read(tmp_path / "data", "train")) == ["1000000009", "0000000001"]
    noted = metadata(open_annotations(FLICKR, "train", data_dir=tmp_path / "data", hint=""))
    assert noted["files"] == {
        "caption_datasets.zip": {
            "name": f"caption_datasets.zip/{inner}",
            "rows": 4,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    }


def vilbert_flickr(tmp_path):
    return write_vilbert(
        tmp_path / "manual",
        train=line("dog", id=0, img_path="1000000009.jpg") + line("\u2028 é", id=1, img_path="1000000001.jpg"),
        validation=line("tree", id="36990", img_path="36990.jpg") + b"\n",
        test=line("kite", id=5, img_path="1000000003.jpg").removesuffix(b"\n"),
    )


def test_files_of_the_released_code(tmp_path):
    assert run(vilbert_flickr(tmp_path), tmp_path / "data") == 0
    assert read(tmp_path / "data", "train") == {"1000000009": captions("dog"), "1000000001": captions("\u2028 é")}
    assert read(tmp_path / "data", "validation") == {"36990": captions("tree")}
    assert read(tmp_path / "data", "test") == {"1000000003": captions("kite")}


def test_files_of_the_released_code_name_coco_pictures_by_id(tmp_path, capsys):
    path = "COCO_val2014_000000990003.jpg"
    manual = write_vilbert(
        tmp_path / "manual",
        train=line("cat", 6, id=990005, img_path="x.jpg"),
        test=line("cup", id=990003, img_path=path),
    )
    assert run(manual, tmp_path / "data", COCO) == 0
    assert read(tmp_path / "data", "train", COCO) == {"990005": captions("cat", 6)[:5]}
    assert read(tmp_path / "data", "test", COCO) == {"990003": captions("cup")}
    assert "warning: there will be no split validation" in capsys.readouterr().err


def test_karpathys_file_goes_before_the_others(tmp_path, capsys):
    manual = write(vilbert_flickr(tmp_path), flickr_images())
    assert run(manual, tmp_path / "data") == 0
    assert read(tmp_path / "data", "test") == {"1000000003": captions("Kite  é")}
    assert f"read dataset_flickr30k.json in {manual}" in capsys.readouterr().err


def test_other_numbers_than_the_published_ones_are_a_warning(tmp_path, capsys, monkeypatch):
    config = next(c for c in flickr30k.Builder.BUILDER_CONFIGS if c.name == "flickr30k")
    assert config.published == {"train": 29_000, "validation": 1_014, "test": 1_000}
    monkeypatch.setattr(config, "published", {"train": 2, "validation": 1, "test": 2})
    assert run(write(tmp_path / "manual", flickr_images()), tmp_path / "data") == 0
    said = capsys.readouterr().err
    assert "train: 2 images" in said
    warnings = [line for line in said.splitlines() if line.startswith("warning")]
    assert warnings == ["warning: the published test split has 2 images"]


def test_shards_keep_the_order_and_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(builder_module, "_IMAGES_A_SHARD", 1)
    assert run(write(tmp_path / "manual", flickr_images()), tmp_path / "data") == 0
    assert list(read(tmp_path / "data", "train")) == ["1000000009", "0000000001"]
    assert len(list((tmp_path / "data" / FLICKR / "1.0.0").glob("*train.array_record*"))) == 2
    (shard,) = builder_module._shards([Picture("7", ["a"] * 5)])
    assert list(pickle.loads(pickle.dumps(shard))()) == [("7", {"image_id": "7", "captions": ["a"] * 5})]


def changed(images, place, **more):
    return [*images[:place], {**images[place], **more}, *images[place + 1 :]]


def without(images, place, name):
    return [*images[:place], {k: v for k, v in images[place].items() if k != name}, *images[place + 1 :]]


SAID = flickr_images()[0]["sentences"]
REFUSED = {
    "four captions": (FLICKR, changed(flickr_images(), 2, sentences=SAID[:4]), "images[2] (filename \"36990.jpg\"): 4"),
    "six captions": (FLICKR, changed(flickr_images(), 1, sentences=SAID + SAID[:1]), "6 captions; expected 5"),
    "four of COCO": (COCO, changed(coco_images(), 1, sentences=SAID[:4]), "images[1] (cocoid 990002): 4 captions; "
                     "expected 5 or more"),
    "no raw": (FLICKR, changed(flickr_images(), 0, sentences=[*SAID[:4], {"tokens": []}]), "sentences[4] is null"),
    "raw is a number": (FLICKR, changed(flickr_images(), 0, sentences=[{"raw": 5}, *SAID[1:]]), "sentences[0] is 5"),
    "half a char": (FLICKR, changed(flickr_images(), 0, sentences=[*SAID[:4], {"raw": "\ud83d"}]), "expected text"),
    "sentences": (FLICKR, changed(flickr_images(), 3, sentences={}), "images[3] (filename \"0000000001.jpg\"): "
                  "sentences is {}"),
    "twice": (FLICKR, changed(flickr_images(), 3, filename="36990.png"), "36990 is also the picture of "),
    "COCO twice": (COCO, changed(coco_images(), 3, cocoid=990005), "990005 is also the picture of "),
    "no filename": (FLICKR, without(flickr_images(), 1, "filename"), "images[1]: has no filename; it has sentids, "),
    "no cocoid": (COCO, without(coco_images(), 1, "cocoid"), "images[1]: has no cocoid"),
    "no split": (FLICKR, without(flickr_images(), 1, "split"), "images[1]: has no split"),
    "split": (FLICKR, changed(flickr_images(), 1, split="restval"), "split is \"restval\"; expected one of train, val"),
    "split is a list": (FLICKR, changed(flickr_images(), 1, split=["train"]), "split is [\"train\"]; expected one of"),
    "file name": (FLICKR, changed(flickr_images(), 1, filename="COCO_1.jpg"), "filename is \"COCO_1.jpg\"; expected a"),
    "other digits": (FLICKR, changed(flickr_images(), 1, filename="³.jpg"), "expected a number and an extension"),
    "cocoid": (COCO, changed(coco_images(), 0, cocoid="990005"), "cocoid is \"990005\"; expected a whole number"),
    "large cocoid": (COCO, changed(coco_images(), 0, cocoid=1000000003), "flickr30k/flickr30k"),
    "record": (FLICKR, [*flickr_images(), 7], "images[4]: expected an object with split, sentences, filename; found 7"),
    "nothing": (FLICKR, [], "expected an object with a list 'images' that is not empty; found an object with images"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_record_that_cannot_be_used_is_named(name, tmp_path, capsys):
    config, images, message = REFUSED[name]
    manual = tmp_path / "manual"
    manual.mkdir()
    data_set = config.rpartition("/")[2]
    file = manual / f"dataset_{data_set}.json"
    file.write_text(json.dumps({"images": images, "dataset": data_set}))
    assert run(manual, tmp_path / "data", config) == 2
    said = capsys.readouterr().err
    assert f"error: {file}" in said
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "data" / config / "1.0.0").exists()


GOOD = line("dog", img_path="1000000009.jpg", id=3)


@pytest.mark.parametrize(
    ("config", "content", "message"),
    [
        (FLICKR, GOOD + b"{\n", ":2:2: not JSON"),
        (FLICKR, GOOD + b"\xff\n", ":2: not UTF-8"),
        (FLICKR, GOOD + b"[]\n", ":2: expected an object with sentences, img_path"),
        (FLICKR, GOOD + line("x", img_path="1.jpg").replace(b"sentences", b"captions"), ":2: has no sentences"),
        (FLICKR, GOOD + b"\n" + line("x", 6, img_path="1.jpg"), ":3: 6 captions; expected 5"),
        (FLICKR, GOOD + GOOD, ":2: 1000000009 is also the picture of "),
        (FLICKR, line("x", id=990001, img_path="COCO_val2014_000000990001.jpg"), "files are for flickr30k/coco"),
        (COCO, line("x", id=1000000009, img_path="1000000009.jpg"), "files are for flickr30k/flickr30k"),
        (COCO, line("x", img_path="1.jpg"), ":1: has no id"),
        (FLICKR, b"\n", "has no lines"),
    ],
)
def test_a_line_of_the_released_files_that_cannot_be_used_is_named(config, content, message, tmp_path, capsys):
    manual = write_vilbert(tmp_path / "manual", train=content)
    assert run(manual, tmp_path / "data", config) == 2
    said = capsys.readouterr().err
    assert f"error: {manual / VILBERT_FILES['train']}" in said
    assert message in said


def test_a_picture_in_two_of_the_released_files_is_refused(tmp_path, capsys):
    manual = write_vilbert(tmp_path / "manual", train=GOOD, test=GOOD)
    assert run(manual, tmp_path / "data") == 2
    assert f"{VILBERT_FILES['test']}:1: 1000000009 is also the picture of {manual}" in capsys.readouterr().err


def test_the_file_of_another_data_set_is_refused(tmp_path, capsys):
    manual = tmp_path / "manual"
    manual.mkdir()
    (manual / "dataset_flickr30k.json").write_bytes(encoded(flickr_images(), "flickr8k"))
    assert run(manual, tmp_path / "data") == 2
    assert "dataset is \"flickr8k\"; expected 'flickr30k'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no zip", "is no whole zip archive"), (None, "should hold one file dataset_flickr30k.json; it holds 0")],
)
def test_archives_that_cannot_be_used(content, message, tmp_path, capsys):
    manual = tmp_path / "manual"
    manual.mkdir()
    with zipfile.ZipFile(manual / "caption_datasets.zip", "w") as packed:
        packed.writestr("dataset_coco.json", b"{}")
    if content is not None:
        (manual / "caption_datasets.zip").write_bytes(content)
    assert run(manual, tmp_path / "data") == 2
    assert message in capsys.readouterr().err


def test_a_damaged_archive_is_refused(tmp_path, capsys):
    manual = tmp_path / "manual"
    manual.mkdir()
    archive = manual / "caption_datasets.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("dataset_flickr30k.json", encoded(flickr_images(), "flickr30k"))
    content = bytearray(archive.read_bytes())
    content[200] ^= 1
    archive.write_bytes(content)
    assert run(manual, tmp_path / "data") == 2
    assert "caption_datasets.zip/dataset_flickr30k.json is damaged" in capsys.readouterr().err


def test_a_missing_file_says_what_to_download(tmp_path, capsys):
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "x.txt").write_text("TFDS takes an empty folder for none")
    assert run(tmp_path / "manual", tmp_path / "data", COCO) == 2
    said = capsys.readouterr().err
    assert (
        "has no dataset_coco.json, no caption_datasets.zip with it, and no all_data_final_train_2014.jsonline" in said
    )
    assert "https://cs.stanford.edu/people/karpathy/deepimagesent" in said


def test_images_are_matched_with_a_store_by_name(tmp_path):
    """Ids are stored as text, not as numbers, since zeros in front are part of a file's name."""
    assert run(write(tmp_path / "manual", flickr_images()), tmp_path / "data") == 0
    ids = np.load(tmp_path / "data" / FLICKR / "1.0.0" / "row_image_ids-train.npy")
    assert ids.dtype.kind == "S"
