"""Conceptual Captions from files as people have them, and image ids that stand for two pictures."""

import gzip
import hashlib
import itertools
import json
import pickle
import zlib
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders import build, conceptual_captions, testing
from tfds_builders.conceptual_captions import conceptual_captions_dataset_builder as builder_module
from tfds_builders.conceptual_captions import tables
from tfds_builders.conceptual_captions.ambiguity import find_ambiguous
from vilbert_jax.errors import InputError

TRAIN, VALIDATION = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"


def url(name):
    return f"http://img.example.org/{name}.jpg"


def lines(rows, end="\n"):
    return "".join(f"{caption}\t{address}{end}" for caption, address in rows).encode()


ROWS = [
    ('he said " and never " again "', url("1")),
    ("null", url("2")),
    ("nan", url("3") + '?a="b"&c=1'),
    ("déjà vu — 海 \u2028 \x85 one line still", url("ä")),
    ("  spaces stay  ", url("5 6")),
    ("null", url("7")),
]
HELD_OUT = [("a held-out caption", url("v1")), ('"', url("v2"))]


@pytest.fixture
def manual(tmp_path):
    """A folder with both files."""
    folder = tmp_path / "manual"
    folder.mkdir()
    (folder / TRAIN).write_bytes(lines(ROWS))
    (folder / VALIDATION).write_bytes(lines(HELD_OUT))
    return folder


def read_back(folder):
    """Split -> its examples as text, and the ids stored beside them."""
    stored = tfds.builder_from_directory(folder)
    found = {}
    for split in stored.info.splits:
        rows = stored.as_data_source(split=split)
        examples = [{name: value.decode() for name, value in rows[k].items()} for k in range(len(rows))]
        assert np.load(folder / f"row_image_ids-{split}.npy").tolist() == [int(e["image_id"]) for e in examples]
        found[split] = [(example["caption"], example["url"]) for example in examples]
        assert [e["image_id"] for e in examples] == [str(zlib.crc32(e["url"].encode())) for e in examples]
    return found, json.loads((folder / "metadata.json").read_text())


def run(manual, data_dir):
    """Builds by the command line, as users do."""
    code = build.main(["build.py", "conceptual_captions", f"--manual_dir={manual}", f"--data_dir={data_dir}"])
    return code, data_dir / "conceptual_captions" / "captions" / "1.0.0"


class ConceptualCaptionsTest(testing.BuilderTest):
    """The files in dummy_data: ten training rows, of which three are ambiguous, and three validation rows, one so."""

    BUILDER = conceptual_captions.Builder
    SPLITS: ClassVar[Any] = {"train": 7, "validation": 2}

    def check_example(self, example, config):
        assert example["image_id"].decode() == str(zlib.crc32(example["url"]))
        assert b"its crc is also" not in example["caption"]


def test_every_row_arrives_as_it_stands_in_the_file(manual, tmp_path, capsys):
    code, folder = run(manual, tmp_path / "data")
    assert code == 0
    found, metadata = read_back(folder)
    assert found == {"train": ROWS, "validation": HELD_OUT}
    assert metadata["ambiguous"] == {"train": 0, "validation": 0}
    assert metadata["repeated_urls"] == 0
    assert metadata["files"]["train"] == {
        "name": TRAIN,
        "rows": 6,
        "bytes": len(lines(ROWS)),
        "sha256": hashlib.sha256(lines(ROWS)).hexdigest(),
    }
    said = capsys.readouterr().err
    assert f"train: 6 rows in {manual / TRAIN}, 0 of them ambiguous" in said
    assert "warning: the published train file has 3,318,333 rows" in said
    assert "warning: the published validation file has 15,840 rows" in said


def test_the_published_number_of_rows_is_no_warning(manual, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tables.PUBLISHED_ROWS, "train", 6)
    assert run(manual, tmp_path / "data")[0] == 0
    said = capsys.readouterr().err
    assert "published train" not in said
    assert "published validation" in said


LABELLED = lines((caption, f"{address}\tred,kite\t/m/1,/m/2\t0.9,0.8") for caption, address in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cc3m_train.tsv", lines(ROWS)),
        ("Train_GCC-training.tsv.gz", gzip.compress(lines(ROWS))),
        (TRAIN, gzip.compress(lines(ROWS))),  # packed, whatever the name says
        (TRAIN, lines(ROWS, end="\r\n")),
        (TRAIN, lines(ROWS).removesuffix(b"\n")),
        (TRAIN, b"\xef\xbb\xbf" + lines(ROWS)),
        (TRAIN, b"caption\turl\n" + lines(ROWS)),
        (TRAIN, b"\xef\xbb\xbfcaption\timage_url\r\n" + lines(ROWS)),
        ("Image_Labels_Subset_Train_GCC-Labels-training.tsv", LABELLED),
    ],
)
@pytest.mark.parametrize("rows_a_shard", [2, 100])
def test_files_as_people_have_them(name, content, rows_a_shard, manual, tmp_path, monkeypatch):
    monkeypatch.setattr(builder_module, "_ROWS_A_SHARD", rows_a_shard)
    (manual / TRAIN).unlink()
    (manual / name).write_bytes(content)
    code, folder = run(manual, tmp_path / "data")
    assert code == 0
    assert read_back(folder)[0] == {"train": ROWS, "validation": HELD_OUT}
    assert len(list(folder.glob("*train.array_record*"))) == -(-6 // rows_a_shard)


def test_the_official_file_is_taken_before_others(manual, tmp_path):
    (manual / "Image_Labels_Subset_Train_GCC-Labels-training.tsv").write_bytes(LABELLED[:50])
    (manual / "train_of_mine.tsv").write_bytes(b"")
    code, folder = run(manual, tmp_path / "data")
    assert code == 0
    assert read_back(folder)[0]["train"] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN, lines(ROWS[:3]) + b"no tab\n" + lines(ROWS[3:]), f"{TRAIN}:4: 1 column(s).*'no tab"),
        (TRAIN, lines(ROWS) + b"\n", f"{TRAIN}:7: 1 column(s)"),
        (TRAIN, lines(ROWS) + b"a\tb\tc\n", f"{TRAIN}:7: 3 column(s)"),
        (TRAIN, b"caption\turl\na\tb\tc\n", f"{TRAIN}:2: 3 column(s)"),
        (TRAIN, lines([*ROWS, (" ", url("8"))]), f"{TRAIN}:7: the caption is empty"),
        (TRAIN, lines([*ROWS, ("x", "")]), f"{TRAIN}:7: the URL is empty"),
        (TRAIN, lines(ROWS) + b"caf\xe9\thttp://x\n", f"{TRAIN}:7: not UTF-8"),
        (TRAIN, lines((b, a) for a, b in ROWS), f"{TRAIN}:1: the URL stands first"),
        (TRAIN, b"image_url\tcaption\nb\ta\n", f"{TRAIN}:1: the URL stands first"),
        (TRAIN, b"", f"{TRAIN} has no rows"),
        (TRAIN, b"caption\turl\n", f"{TRAIN} has no rows"),
        (TRAIN, gzip.compress(lines(ROWS))[:-12], f"{TRAIN} is damaged"),
        ("captions.tsv", lines(ROWS), f"has no train file.*it has {VALIDATION}, captions.tsv.*Download {TRAIN}"),
    ],
)
def test_files_that_cannot_be_used_name_the_line(name, content, message, manual, tmp_path, capsys):
    (manual / TRAIN).unlink()
    (manual / name).write_bytes(content)
    code, folder = run(manual, tmp_path / "data")
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    with pytest.raises(InputError, match=message.replace("(s)", r"\(s\)")):
        raise InputError(said)
    assert not folder.exists()


def test_several_files_that_could_be_meant_are_named(manual, tmp_path, capsys):
    for name in ("train_a.tsv", "my_train.tsv.gz"):
        (manual / name).write_bytes(lines(ROWS))
    assert run(manual, tmp_path / "data")[0] == 0  # the official name decides
    (manual / TRAIN).unlink()
    assert run(manual, tmp_path / "again")[0] == 2
    assert "my_train.tsv.gz, train_a.tsv could each be the train file" in capsys.readouterr().err


def test_a_missing_folder_says_what_to_download(tmp_path, capsys):
    assert run(tmp_path / "none", tmp_path / "data")[0] == 2
    said = capsys.readouterr().err
    assert TRAIN in said
    assert "https://ai.google.com/research/ConceptualCaptions" in said
    assert "--manual_dir" in said


@pytest.fixture(scope="module")
def colliding():
    """Two pairs of URLs of one CRC-32 each, found by trying: among 100,000 random ones there is more than one."""
    seen, found = {}, []
    for number in itertools.count():
        address = url(hashlib.sha256(b"%d" % number).hexdigest())
        other = seen.setdefault(zlib.crc32(address.encode()), address)
        if other != address:
            found.append((other, address))
            if len(found) == 2:
                return found


@pytest.mark.parametrize("rows_a_shard", [2, 100])
def test_urls_that_share_an_id_are_left_out_in_both_files(
    rows_a_shard, colliding, manual, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(builder_module, "_ROWS_A_SHARD", rows_a_shard)
    (one, two), (three, four) = colliding
    train = [("1", one), ("2", two), *ROWS, ("3", three), ("3 again", three), ("6 again", ROWS[5][1])]
    (manual / TRAIN).write_bytes(lines(train))
    (manual / VALIDATION).write_bytes(lines([HELD_OUT[0], ("4", four), HELD_OUT[1], ("held out too", ROWS[0][1])]))
    code, folder = run(manual, tmp_path / "data")
    assert code == 0
    found, metadata = read_back(folder)
    assert found["train"] == [*ROWS, ("6 again", ROWS[5][1])]
    assert found["validation"] == [*HELD_OUT, ("held out too", ROWS[0][1])]
    assert metadata["ambiguous"] == {"train": 4, "validation": 1}
    assert metadata["repeated_urls"] == 3
    said = capsys.readouterr().err
    assert "5 rows are left out, because their image id is also that of another URL" in said
    assert "3 rows repeat the URL of another and stay" in said


def test_a_file_of_ambiguous_rows_alone_is_refused(colliding, manual, tmp_path, capsys):
    (manual / VALIDATION).write_bytes(lines(("x", address) for address in colliding[0]))
    assert run(manual, tmp_path / "data")[0] == 2
    assert "every image id stands for two URLs" in capsys.readouterr().err


def test_ambiguity_is_what_counting_says():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 40, 200).astype(np.uint32)
    fingerprints = rng.integers(0, 3, 200).astype(np.uint64) + np.uint64(2**63)
    pairs = list(zip(ids.tolist(), fingerprints.tolist(), strict=True))
    urls = {image_id: {f for i, f in pairs if i == image_id} for image_id in set(ids.tolist())}
    ambiguous, repeated = find_ambiguous(ids, fingerprints)
    assert ambiguous.tolist() == [len(urls[image_id]) > 1 for image_id in ids.tolist()]
    assert repeated == len(pairs) - len(set(pairs))
    assert ambiguous.any()
    assert not ambiguous.all()


def test_parts_start_where_their_rows_start(tmp_path):
    """Every part can be read by itself, so that workers share the file."""
    path = epath.Path(tmp_path / "train.tsv")
    path.write_bytes(b"\xef\xbb\xbfcaption\turl\n" + lines(ROWS, end="\r\n"))
    scan = tables.scan(path, 4)
    assert len(scan.starts) == 2
    assert [tuple(row) for row in tables.read(path, scan.starts[1], 100)] == ROWS[4:]
    assert [tuple(row) for row in tables.read(path, scan.starts[0], 4)] == ROWS[:4]
    assert scan.num_bytes == path.stat().length
    shards = pickle.loads(pickle.dumps(list(builder_module._shards(scan, np.ones(6, bool)))))
    assert [example["caption"] for shard in shards for _, example in shard()] == [caption for caption, _ in ROWS]
