"""Importing from the command line: whole stores, what they say of themselves, and every way a dump can be bad."""

import base64
import importlib
import json
import pathlib
import pickle
import re

import numpy as np
import pytest
import region_dumps
import safetensors.numpy
import tensorflow_datasets as tfds

from tfds_builders import build, region_features
from tfds_builders.region_features import contract
from tfds_builders.region_features.recognise import recognise
from vilbert_jax.data.pipeline import make_dataset
from vilbert_jax.data.pretraining import PretrainingDataConfig
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.regions import visible_features

DETECTOR = "--contract=butd_36"
VOCAB = pathlib.Path(build.__file__).parent / "scenes" / "vocab.txt"

EXACT = ["--storage=float16", "--class_storage=float16"]


def run(source, root, *flags, name="mine"):
    command = ["build.py", "region_features", f"--source={source}", f"--config={name}", f"--data_dir={root}", *flags]
    return build.main(command)


def nothing_opens(root):
    with pytest.raises(InputError, match="no region store"):
        RegionStore(root / "region_features" / "mine")
    return True


@pytest.fixture
def refused(tmp_path, capsys):
    """Imports what must not be imported and returns the message; checks that nothing is left that opens."""

    def attempt(source, *flags):
        assert run(source, tmp_path / "data", *(flags or (DETECTOR,))) == 2
        assert nothing_opens(tmp_path / "data")
        said, _, message = capsys.readouterr().err.rpartition("error: ")
        assert not said or said.startswith("importing ")
        return message

    return attempt


@pytest.mark.parametrize(
    ("write", "flags", "probs"),
    [
        (region_dumps.vilbert_tsv, EXACT, True),
        (region_dumps.multi_task_lmdb, ["--contract=x152_100", "--storage=float16"], False),
        (region_dumps.volta_tsv, ["--background=last", "--image_ids=numbers"], True),
        (region_dumps.milvlg_folder, ["--contract=milvlg_r101_10_100", "--storage=int8"], False),
        (region_dumps.rows_hdf5, [], False),
    ],
)
def test_a_store_holds_what_the_dump_held(write, flags, probs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(region_features.region_features_dataset_builder, "_BYTES_A_SHARD", 20)  # several shards
    made = region_dumps.pictures(boxes=3)
    contract_flag = [] if any("contract" in flag for flag in flags) else [DETECTOR]
    assert run(write(tmp_path, made), tmp_path / "data", *flags, *contract_flag) == 0
    assert "imported 5 pictures" in capsys.readouterr().err
    store = RegionStore(tmp_path / "data" / "region_features" / "mine")
    assert store.image_ids == sorted(p.image_id for p in made)
    assert store.contract.feature_dim == region_dumps.FEATURES
    assert store.contract.num_classes == (region_dumps.CLASSES if probs else 0)
    assert store.contract.background == ("first" if probs else "absent")
    assert len(list(store.path.glob("*.array_record*"))) > 1
    for p in made:
        record = store[p.image_id]
        assert (record.width, record.height) == (p.width, p.height)
        np.testing.assert_array_equal(record.boxes, p.boxes)
        tolerance = {"rtol": 1e-3} if store.storage.features == "float16" else {"atol": p.features.max() / 250}
        np.testing.assert_allclose(record.features, p.features, **tolerance)
        if probs:
            np.testing.assert_allclose(record.class_probs, p.class_probs, rtol=1e-3)
        else:
            assert record.class_probs is None
    metadata = json.loads((store.path / "metadata.json").read_text())
    assert metadata["import"]["records"] == len(made)
    assert metadata["import"]["clipped_boxes"] == 0


class Captions(tfds.core.GeneratorBasedBuilder):
    """A caption for every picture."""

    VERSION = tfds.core.Version("1.0.0")
    NAMES = ()

    def _info(self):
        text = {"image_id": tfds.features.Text(), "caption": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(text))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for k, name in enumerate(self.NAMES):
            yield k, {"image_id": name, "caption": f"a red circle and {k} small squares"}


def test_from_a_table_to_a_batch(tmp_path, monkeypatch):
    made = region_dumps.pictures(4, boxes=4)
    assert run(region_dumps.vilbert_tsv(tmp_path, made), tmp_path, DETECTOR, *EXACT) == 0
    monkeypatch.setattr(Captions, "NAMES", tuple(p.image_id for p in made))
    Captions(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    config = PretrainingDataConfig(
        **{
            "annotations": "captions",
            "regions": "region_features/mine",
            "vocab": str(VOCAB),
            "data_dir": str(tmp_path),
        },
        **{"batch_size": 4, "text_length": 12, "max_regions": 3, "region_mask_rate": 0.5},
    )
    batch = make_dataset(config, split="train")[0]
    assert batch["region_mask"].all()
    written = {p.boxes[0].tobytes(): p for p in made}
    for row in range(4):
        location, mask = batch["region_boxes"][row, 1], batch["region_label_mask"][row]
        p = next(p for p in made if np.allclose(location[:4], region_dumps.fractions(p)[0, :4], atol=1e-6))
        np.testing.assert_allclose(batch["target_probs"][row], p.class_probs[:3], rtol=1e-3)
        visible = ~mask & batch["region_visible"][row]
        seen = np.asarray(visible_features(batch))[row, 1:]
        np.testing.assert_allclose(seen[visible], p.features[:3][visible], rtol=1e-3)
        written.pop(p.boxes[0].tobytes())
    assert not written


def test_boxes_partly_outside_are_clipped_and_counted(tmp_path, capsys):
    made = region_dumps.pictures(3)
    p = made[1]
    boxes = p.boxes.copy()
    boxes[0] = [-3, 5, p.width + 4, p.height]
    boxes[1] = [0, 5, p.width + 0.001, p.height]  # float32 rounding is not worth a count
    made[1] = p._replace(boxes=boxes)
    assert run(region_dumps.butd_tsv(tmp_path, made), tmp_path / "data", DETECTOR) == 0
    assert "1 boxes lay partly outside" in capsys.readouterr().err
    store = RegionStore(tmp_path / "data" / "region_features" / "mine")
    assert store[p.image_id].boxes[0].tolist() == [0, 5, p.width, p.height]
    assert store[p.image_id].boxes[1].tolist() == [0, 5, p.width, p.height]
    assert json.loads((store.path / "metadata.json").read_text())["import"]["clipped_boxes"] == 1


def test_a_store_is_not_mistaken_for_that_of_another_dump(tmp_path, capsys):
    made = region_dumps.pictures(3)
    table, wide = region_dumps.butd_tsv(tmp_path, made), region_dumps.vilbert_tsv(tmp_path, made)
    assert run(table, tmp_path / "data", DETECTOR) == 0
    assert run(table, tmp_path / "data", DETECTOR) == 0
    assert "complete already" in capsys.readouterr().err
    assert run(wide, tmp_path / "data", DETECTOR) == 2
    assert "format 'ViLBERT TSV (7 columns)' and not 'bottom-up-attention TSV (6 columns)'" in capsys.readouterr().err
    assert run(table, tmp_path / "data", DETECTOR, "--storage=float16") == 2
    assert "storage {" in capsys.readouterr().err
    assert run(table, tmp_path / "data", "--contract=x152_100") == 2
    assert "feature_contract" in capsys.readouterr().err
    assert RegionStore(tmp_path / "data" / "region_features" / "mine").contract.num_classes == 0
    assert run(wide, tmp_path / "data", DETECTOR, "--overwrite") == 0
    assert RegionStore(tmp_path / "data" / "region_features" / "mine").contract.num_classes == region_dumps.CLASSES


def bad_row(change, write=region_dumps.vilbert_tsv):
    """A dump whose third row is changed as a list of columns."""

    def make(root):
        path = write(root, region_dumps.pictures(4, boxes=3))
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        rows[2] = change(rows[2])
        return region_dumps.lines(path, rows)

    return make


def put(column, value):
    return lambda row: [*row[:column], value(row[column]) if callable(value) else value, *row[column + 1 :]]


def encoded(change):
    def apply(text):
        values = np.frombuffer(base64.b64decode(text), "f4").copy()
        return region_dumps.text64(change(values))

    return apply


def with_first(value):
    return lambda values: np.concatenate([[value], values[1:]])


def repeat_first(root):
    made = region_dumps.pictures(3)
    return region_dumps.butd_tsv(root, [*made, made[0]])


ROW = r"CC\.tsv\.0, row 3"
IMAGE = ROW + r", image '990003'"
BAD = {
    "columns": (bad_row(lambda row: row[:6]), rf"{ROW}: 6 columns; a ViLBERT TSV \(7 columns\) has 7"),
    "base64": (bad_row(put(5, lambda text: text[:-3])), rf"{IMAGE}: features is no whole base64 text"),
    "base64 cut at four": (bad_row(put(4, lambda text: text[:-4])), rf"{IMAGE}: boxes is no whole base64|boxes has"),
    "base64 cut at a number": (
        bad_row(put(4, encoded(lambda v: v[:-1]))),
        rf"{IMAGE}: boxes has 11 numbers; expected 3 x",
    ),
    "count": (bad_row(put(3, "4")), rf"{IMAGE}: boxes has 12 numbers; expected 4 x 4"),
    "count is text": (bad_row(put(3, "x")), rf"{IMAGE}: num_boxes is .*'x'.*; expected an integer"),
    "no boxes": (bad_row(lambda r: [*r[:3], "0", "", "", ""]), rf"{IMAGE}: no boxes; leave the picture out"),
    "nan": (bad_row(put(5, encoded(with_first(np.nan)))), rf"{IMAGE}: features hold NaN or infinity in row 0"),
    "infinite box": (bad_row(put(4, encoded(with_first(np.inf)))), rf"{IMAGE}: boxes hold NaN"),
    "far outside": (bad_row(put(4, encoded(with_first(-100)))), rf"{IMAGE}: box 0 is \[-100\.0.*at most 5% outside"),
    "inverted": (bad_row(put(4, encoded(lambda v: v[[2, 3, 0, 1, *range(4, 12)]]))), rf"{IMAGE}: box 0 is"),
    "size": (bad_row(put(1, "0")), rf"{IMAGE}: the picture is 0 x \d+; expected positive numbers"),
    "logits": (bad_row(put(6, encoded(with_first(7)))), rf"{IMAGE}: class probabilities .* expected a softmax"),
    "other width": (
        bad_row(put(5, encoded(lambda v: v[:9]))),
        rf"{IMAGE}: features .*are 3 and 5 wide, .* first",
    ),
    "twice": (repeat_first, r"row 4, image '990001': image id '990001' occurs for the second time, first at .*row 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(case, tmp_path, refused):
    make, message = BAD[case]
    found = refused(make(tmp_path))
    assert re.search(message, found), found


def test_a_malicious_pickle_is_refused_unexecuted(tmp_path, refused):
    made = tmp_path / "made"

    class Evil:
        def __reduce__(self):
            return pathlib.Path.touch, (made,)

    source = region_dumps.write_lmdb(tmp_path / "evil.lmdb", {"7": pickle.dumps({"image_h": 3, "x": Evil()})})
    message = refused(source)
    assert "key '7': the pickle asks for" in message
    assert not made.exists()
    records = region_dumps.pictures(2)
    folder = region_dumps.multi_task_folder(tmp_path, records)
    np.save(folder / "zz.npy", np.array({"bbox": Evil(), "features": 1}), allow_pickle=True)
    assert "zz.npy: the pickle asks for" in refused(folder)
    assert not made.exists()


def test_what_the_dump_does_not_tell_is_asked_for(tmp_path, refused):
    made = region_dumps.pictures(3)
    assert "say --background=first" in refused(region_dumps.volta_tsv(tmp_path, made), DETECTOR)
    table = region_dumps.vilbert_tsv(tmp_path, made)
    assert "in a ViLBERT TSV (7 columns) it is first" in refused(table, DETECTOR, "--background=last")
    assert "use first, last or absent" in refused(table, DETECTOR, "--background=end")
    assert "give it with --image_sizes" in refused(region_dumps.vinvl_tsv(tmp_path, made), DETECTOR)
    sizes = region_dumps.image_sizes(tmp_path, [("1", 2, 3)])
    found = refused(tmp_path / "features.tsv", DETECTOR, f"--image_sizes={sizes}")
    assert "sizes.tsv has no size for image '990001'" in found
    sizes.write_text("990001\t640\n")
    assert "sizes.tsv, line 1: the size is ['640']" in refused(table, DETECTOR, f"--image_sizes={sizes}")
    assert "there is no file 'x.json'" in refused(table, DETECTOR, "--image_sizes=x.json")
    assert "a number; leave --image_ids=numbers out" in refused(
        region_dumps.butd_tsv(tmp_path, [made[0]._replace(image_id="a")]), DETECTOR, "--image_ids=numbers"
    )


def test_sizes_from_json_replace_those_of_the_dump(tmp_path):
    """They may go by the id of the dump or by that of the store."""
    made = region_dumps.pictures(3)
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps({p.image_id: [p.width + 10, p.height + 20] for p in made}))
    source = region_dumps.lxmert_tsv(tmp_path, made)
    assert run(source, tmp_path / "data", DETECTOR, f"--image_sizes={sizes}", "--image_ids=numbers") == 0
    store = RegionStore(tmp_path / "data" / "region_features" / "mine")
    assert store[made[0].image_id].width == made[0].width + 10


def test_contracts(tmp_path, refused):
    table = region_dumps.vilbert_tsv(tmp_path, region_dumps.pictures(2))
    found = refused(table, "--storage=float16")
    assert "which detector made the features" in found
    for name in contract.preset_names():
        assert f"  {name}: " in found
    assert "'bu' is neither a file nor one of" in refused(table, "--contract=bu")
    mine = tmp_path / "mine.json"
    mine.write_text("{")
    assert "mine.json is no JSON" in refused(table, f"--contract={mine}")
    mine.write_text('{"detector": "d", "colour": "bgr"}')
    assert "unknown fields ['colour']" in refused(table, f"--contract={mine}")
    mine.write_text('{"detector": "d", "feature_dim": 2048}')
    assert "says feature_dim is 2048, in the store of this dump it is 6" in refused(table, f"--contract={mine}")
    full = {"detector": "d", "weights_hash": "h", "layer": "l", "colour_order": "rgb", "resize_rule": "r"}
    mine.write_text(json.dumps({**full, "selection_rule": "s", "num_classes": 5}))
    assert run(table, tmp_path / "data", f"--contract={mine}") == 0
    assert RegionStore(tmp_path / "data" / "region_features" / "mine").contract.weights_hash == "h"


def test_presets_are_whole_and_unlike(tmp_path):
    table = recognise(str(region_dumps.vilbert_tsv(tmp_path, region_dumps.pictures(2))))
    record = next(iter(table.read(table.parts(10)[0])))
    presets = [contract.complete(name, record, "first") for name in contract.preset_names()]
    assert len(presets) >= 6
    assert len({json.dumps(preset.to_json()) for preset in presets}) == len(presets)
    assert all("unknown" in preset.weights_hash for preset in presets)  # none was ever seen


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,c\n1,2,3\n", "a file of no known kind"),
        (b"1\t2\t3\t4\t5\n", "text whose first row has 5 tab-separated columns ('1', '2', '3', '4', '5')"),
        (b"caption\thttp://a/b.jpg\n", "first row has 2 tab-separated columns"),
        (b"image_id\timage_w\timage_h\tnum_boxes\tboxes\tfeatures\n", "has 6 tab-separated columns ('image_id'"),
        (b"\x93NUMPY", "a single .npy file; name the folder"),
    ],
)
def test_unknown_files(content, message, tmp_path, refused):
    file = tmp_path / "file"
    file.write_bytes(content)
    found = refused(file)
    assert message in found
    assert "Known are TSV of bottom-up attention (6 columns)" in found


def test_unknown_and_ambiguous_folders(tmp_path, refused):
    made = region_dumps.pictures(2, boxes=3)
    (tmp_path / "empty").mkdir()
    assert "a folder with no files" in refused(tmp_path / "empty")
    assert "there is no file or folder" in refused(tmp_path / "gone*")
    folder = region_dumps.milvlg_folder(tmp_path, made)
    region_dumps.butd_tsv(folder, made)
    found = refused(folder)
    assert "files of several kinds: .npz (990001.jpg.npz), TSV (butd.bin)" in found
    (tmp_path / "two").mkdir()
    region_dumps.butd_tsv(tmp_path / "two", made)
    region_dumps.vilbert_tsv(tmp_path / "two", made)
    assert "import one format at a time" in refused(tmp_path / "two")
    other = region_dumps.write_lmdb(tmp_path / "other.lmdb", {"a": pickle.dumps({"jpeg": b""})})
    assert "an LMDB whose first key is 'a' and whose first value is a dict of jpeg" in refused(other)
    empty = region_dumps.write_lmdb(tmp_path / "nothing.lmdb", {"keys": pickle.dumps([])})
    assert "an LMDB without records" in refused(empty)
    arrow = region_dumps.write_lmdb(tmp_path / "arrow.lmdb", {"a": b"\xff\xff\xff\xff\x10\x00\x00\x00"})
    assert "pyarrow is not read" in refused(arrow)
    rows = region_dumps.rows_hdf5(tmp_path, made)
    (rows / "again.pkl").write_bytes((rows / "train36_imgid2idx.pkl").read_bytes())
    assert "in the same folder are again.pkl, train36_imgid2idx.pkl that fit" in refused(rows)
    info = next(region_dumps.mmf_folder(tmp_path, made).glob("train/*2_info.npy"))
    info.unlink()
    assert "990002_info.npy is missing" in refused(tmp_path / "mmf", DETECTOR)


def test_a_damaged_lmdb_is_named(tmp_path, refused):
    path = region_dumps.tensorpack_lmdb(tmp_path, region_dumps.pictures(4))
    path.write_bytes(path.read_bytes()[: 2 * 4096])
    assert "training_feat_all.lmdb: an LMDB of 8192 bytes whose header says" in refused(path)


@pytest.mark.parametrize("conf", [{"a": 1}, [[1.0], [1.0, 2.0]], np.ones(3, "f2")])
def test_fields_that_are_no_arrays_are_named(conf, tmp_path, refused):
    (p,) = region_dumps.pictures(1)
    value = region_dumps.pack({**region_dumps.uniter_arrays(p), "conf": conf})
    source = region_dumps.write_lmdb(tmp_path / "uniter.lmdb", {"a.npz": value})
    assert "key 'a.npz': conf " in refused(source, DETECTOR, "--background=first")


@pytest.mark.parametrize("package", ["lmdb", "h5py", "msgpack"])
def test_a_missing_package_is_named(package, tmp_path, refused, monkeypatch):
    made = region_dumps.pictures(2)
    write = {"h5py": region_dumps.volta_hdf5}.get(package, region_dumps.tensorpack_lmdb)
    source = write(tmp_path, made)
    import_module = importlib.import_module

    def missing(name, *rest):
        if name == package:
            raise ImportError(name)
        return import_module(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert f"pip install {package}" in refused(source)


def test_the_command_line(tmp_path, refused, capsys):
    for flags in (["--config=mine"], ["--source=x"], []):
        assert build.main(["build.py", "region_features", f"--data_dir={tmp_path}", *flags]) == 2
        assert "needs --source=PATH" in capsys.readouterr().err
    assert build.main(["build.py", "scenes", "--source=x"]) == 2
    assert "--source is for region_features alone" in capsys.readouterr().err
    table = region_dumps.butd_tsv(tmp_path, region_dumps.pictures(2))
    assert run(table, tmp_path, DETECTOR, name="../up") == 2
    assert "a store's name consists of" in capsys.readouterr().err
    assert "region storage: features is 'float8'" in refused(table, DETECTOR, "--storage=float8")
    assert "use one of as_written, numbers" in refused(table, DETECTOR, "--image_ids=x")
    assert "it is a share" in refused(table, DETECTOR, "--max_outside=-1")
    (args,) = build.parse(["build.py", "region_features/coco", f"--source={table}"])
    assert args.generation.config is not None
    assert json.loads(args.generation.config)["name"] == "coco"


def test_documentation():
    folder = pathlib.Path(region_features.__file__).parent
    tags = set((folder / "TAGS.txt").read_text().split())
    assert tags
    assert tags <= set(tfds.core.dataset_metadata.valid_tags())
    readme = (folder / "README.md").read_text()
    for option in build.ImportOptions.__dataclass_fields__:
        assert f"--{option}" in readme


def test_class_probabilities_are_rebuilt_by_the_detectors_last_layer(tmp_path, refused):
    made = region_dumps.pictures(3, boxes=4)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(region_dumps.CLASSES, region_dumps.FEATURES)).astype(np.float32)
    bias = rng.normal(size=region_dumps.CLASSES).astype(np.float32)
    for number, p in enumerate(made):
        scores = np.exp(p.features @ weight.T + bias - (p.features @ weight.T + bias).max(1, keepdims=True))
        made[number] = p._replace(class_probs=(scores / scores.sum(1, keepdims=True)).astype(np.float32))
    table, layer = region_dumps.vilbert_tsv(tmp_path, made), tmp_path / "last_layer.safetensors"
    safetensors.numpy.save_file({"weight": weight, "bias": bias}, layer)
    flags = ("--class_storage=rebuilt", "--storage=float16")
    assert "classifier is not known" in refused(table, DETECTOR, *flags)
    assert run(table, tmp_path / "data", DETECTOR, *flags, f"--classifier={layer}") == 0
    store = RegionStore(tmp_path / "data" / "region_features" / "mine")
    for p in made:
        np.testing.assert_allclose(store[p.image_id].class_probs, p.class_probs, atol=0.02)
    safetensors.numpy.save_file({"weight": weight[::-1].copy(), "bias": bias}, layer)
    assert run(table, tmp_path / "data", DETECTOR, *flags, f"--classifier={layer}", name="other") == 2
