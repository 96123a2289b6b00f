"""From the files of Conceptual Captions and a region store that lacks some of the images to a training run."""

import dataclasses
import hashlib
import json
import pathlib
import runpy
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders import conceptual_captions
from tfds_builders.region_store_builder import RegionStoreBuilder
from vilbert_jax.data import FeatureContract, PretrainingDataConfig, RegionRecord, RegionStore, make_dataset
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.regions import visible_features

ROOT = pathlib.Path(__file__).parents[2]
F, C = 6, 5
NUM_TRAIN, NUM_HELD_OUT = 40, 12
WORDS = ["null", "photo", "number", "of", "a", *(f"w{k}" for k in range(NUM_TRAIN + NUM_HELD_OUT))]
CONTRACT = FeatureContract(
    detector="test", weights_hash="0", layer="test", colour_order="rgb", resize_rule="none", selection_rule="all",
    feature_dim=F, num_classes=C,
)  # fmt: skip


def image_id(number):
    return str(zlib.crc32(f"http://img.example.org/{number}.jpg".encode()))


def record(number, name=None):
    """Regions whose features say which image they are of."""
    rng = np.random.default_rng(number)
    corners = rng.uniform(0, 50, (3, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1).astype(np.float32)
    features = np.full((3, F), number + 1, np.float32)
    return RegionRecord(name or image_id(number), 120, 100, boxes, features, rng.dirichlet(np.ones(C), 3))


class ToyRegions(RegionStoreBuilder, skip_registration=True):
    """Three regions for each image that the config is given."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    RECORDS = ()

    def feature_contract(self):
        return CONTRACT

    def region_shards(self, dl_manager):
        return {"all_images": [lambda: iter(self.RECORDS)]}


def build_store(folder, records):
    kind = type("ToyRegions", (ToyRegions,), {"RECORDS": records, "__module__": __name__}, skip_registration=True)
    builder = kind(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


PRESENT = [number for number in range(NUM_TRAIN + NUM_HELD_OUT) if number % 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The captions, each said of one image; the last training image has two, so that one row repeats its URL."""
    folder = tmp_path_factory.mktemp("data")
    manual = folder / "manual"
    manual.mkdir()
    rows = [f"photo of a w{n}\thttp://img.example.org/{n}.jpg\n" for n in range(NUM_TRAIN + NUM_HELD_OUT)]
    again = f"null number w{NUM_TRAIN - 1}\thttp://img.example.org/{NUM_TRAIN - 1}.jpg\n"
    (manual / "Train_GCC-training.tsv").write_text("".join(rows[:NUM_TRAIN]) + again)
    (manual / "Validation_GCC-1.1.0-Validation.tsv").write_text("".join(rows[NUM_TRAIN:]))
    builder = conceptual_captions.Builder(data_dir=folder, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return build_store(folder / "most", [record(number) for number in PRESENT])


@pytest.fixture
def config(folder, store):
    return PretrainingDataConfig(
        annotations="conceptual_captions/captions", regions=store, vocab=str(folder / "vocab.txt"), batch_size=8,
        data_dir=str(folder), text_length=8, max_regions=4, max_masked_tokens=3, token_mask_rate=0.0,
    )  # fmt: skip


def test_pairs_without_regions_are_counted_and_never_read(config):
    config = dataclasses.replace(config, mismatch_rate=0.5)
    training = make_dataset(config, "train")
    found = training.source.coverage
    assert dataclasses.replace(found, manifest="") == type(found)(
        pairs=41, pairs_used=33, images=40, images_present=32, images_absent=8, duplicates=1, manifest=""
    )
    held_out = make_dataset(config, "validation").source.coverage
    assert (held_out.pairs, held_out.pairs_used, held_out.images_absent) == (12, 9, 3)
    assert len(training.source) == 33
    epoch, captions = [], set()
    for step in range(33):  # eight epochs
        batch = training[step]
        seen = np.asarray(visible_features(batch))
        for row in range(8):
            visible = seen[row, 1:4].max()
            words = training.source.tokenizer.decode(batch["token_ids"][row]).split()
            number = int(words[-1].removeprefix("w"))
            assert number in PRESENT  # a mismatched caption too is one of a pair that is used
            captions.add(number)
            if not batch["alignment_labels"][row]:
                assert visible in (0, number + 1)  # 0: all three regions are hidden
            elif visible:
                assert visible != number + 1
        epoch += batch["example_index"].tolist()
    assert sorted(epoch) == sorted(list(range(33)) * 8)
    assert captions == {number for number in PRESENT if number < NUM_TRAIN}


def test_the_same_batches_with_any_number_of_hosts_and_workers(config):
    whole = [make_dataset(config, "train")[step] for step in range(6)]
    assert any(batch["alignment_labels"].any() for batch in whole)
    for hosts in (2, 4):
        parts = [make_dataset(config, "train", host_index=k, host_count=hosts) for k in range(hosts)]
        for step, batch in enumerate(whole):
            shares = [part[step] for part in parts]
            for name, values in batch.items():
                np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), values)
    for workers in (0, 1, 3):
        with make_dataset(config, "train").iterate(2, workers=workers) as batches:
            for batch in whole[2:]:
                read = next(batches)
                assert read.keys() == batch.keys()
                for name, values in batch.items():
                    assert read[name].tobytes() == values.tobytes(), (name, workers)


def test_the_subset_decides_not_what_else_the_store_holds(config, tmp_path):
    more = build_store(tmp_path / "more", [*(record(n) for n in PRESENT[::-1]), *(record(n) for n in range(900, 905))])
    less = build_store(tmp_path / "less", [record(n) for n in PRESENT[1:]])
    opened = [make_dataset(dataclasses.replace(config, regions=path), "train") for path in (config.regions, more, less)]
    same, also, other = (dataset.source.coverage.manifest for dataset in opened)
    assert same == also != other
    for name, values in opened[0][3].items():
        np.testing.assert_array_equal(opened[1][3][name], values)


def test_a_store_of_other_images_shows_both_namings(config, folder, tmp_path):
    named = build_store(tmp_path / "named", [record(n, f"training/{image_id(n)}") for n in PRESENT])
    with pytest.raises(InputError) as error:
        make_dataset(dataclasses.replace(config, regions=named, min_coverage=0.0), "train")
    message = str(error.value)
    assert "only 0 of 41 (0.0 %) pairs" in message
    assert f"{folder}/conceptual_captions/captions/1.0.0 names images such as {image_id(0)!r} and" in message
    assert f"{named} holds images such as 'training/" in message
    assert "min_coverage" not in message  # nothing would be left


def test_a_store_with_hardly_any_of_the_images_has_to_be_meant(config, tmp_path):
    few = build_store(tmp_path / "few", [record(1), record(2), *(record(n) for n in range(900, 905))])
    few = dataclasses.replace(config, regions=few, min_coverage=0.1)
    with pytest.raises(InputError, match=r"only 2 of 41 \(4\.8 %\) pairs[\s\S]*set min_coverage=0 to go on"):
        make_dataset(few, "train")
    assert len(make_dataset(dataclasses.replace(few, min_coverage=0.04), "train").source) == 2
    with pytest.raises(InputError, match="min_coverage is 2"):
        dataclasses.replace(few, min_coverage=2)


def test_ids_longer_than_any_of_the_store_are_not_in_it(store):
    opened = RegionStore(store)
    assert image_id(1) in opened
    assert image_id(1) + "0" * 20 not in opened
    assert isinstance(opened.sorted_ids, np.memmap)
    assert opened.sorted_ids.tolist() == sorted(image_id(n).encode() for n in PRESENT)


def run(*flags):
    main = runpy.run_path(str(ROOT / "experiments" / "pretrain.py"))
    with pytest.raises(SystemExit) as exit_info:
        main["cli"].run(main["main"], ["pretrain.py", *flags])
    return exit_info.value.code


def test_a_run_notes_its_pairs_and_does_not_continue_with_others(folder, store, tmp_path, capfd):
    workdir = tmp_path / "run"
    flags = [
        f"--config={ROOT / 'configs' / 'tiny.py'}", f"--workdir={workdir}", f"--config.data_dir={folder}",
        "--config.annotations=conceptual_captions/captions", f"--config.vocab={folder / 'vocab.txt'}",
        f"--config.model.vocab_size={5 + len(WORDS)}", f"--config.model.region_feature_dim={F}",
        f"--config.model.region_target_dim={C}", "--config.model.text.num_layers=2",
        "--config.model.text_co_layers=(0,1)", "--config.model.text.width=16", "--config.model.text.mlp_dim=16",
        "--config.model.regions.width=16", "--config.model.regions.mlp_dim=16", "--config.model.co_width=16",
        "--config.batch_size=8", "--config.total_steps=2", "--config.log_every=1",
    ]  # fmt: skip
    assert run(*flags, f"--config.regions={store}") == 0
    assert "pairs with regions: train 33 of 41 (80.4 %); validation 9 of 12 (75.0 %)" in capfd.readouterr().out
    noted = (workdir / "coverage.json").read_text()
    train = json.loads(noted)["train"]
    used = [*(n for n in PRESENT if n < NUM_TRAIN), NUM_TRAIN - 1]
    listing = tmp_path / "used.txt"
    listing.write_text("".join(f"{image_id(n)}\n" for n in used))
    assert train.pop("manifest") == hashlib.sha256(listing.read_bytes()).hexdigest()
    assert train == {
        "pairs": 41, "pairs_used": 33, "images": 40, "images_present": 32, "images_absent": 8, "duplicates": 1
    }  # fmt: skip

    fewer = build_store(tmp_path / "fewer", [record(number) for number in PRESENT[1:]])
    assert run(*flags, f"--config.regions={fewer}") == 2
    message = capfd.readouterr().err
    assert "pairs: checkpoint" in message
    assert (workdir / "coverage.json").read_text() == noted
