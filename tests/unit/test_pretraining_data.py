"""Pre-training examples: fields, mismatched captions, region targets, NCE negatives, and errors that say what to do."""

import dataclasses
import pickle
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from toy_pairs import NUM_IMAGES, WORDS, C, F, M, R, Store, T, contract, make_config, pairs, source, write_vocab

from tfds_builders.region_store_builder import RegionStoreBuilder
from vilbert_jax.data import load_tokenizer, make_dataset
from vilbert_jax.data.masking import mask_regions
from vilbert_jax.data.negatives import nce_negatives
from vilbert_jax.data.pipeline import Dataset
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.errors import InputError
from vilbert_jax.tasks import regions


def seen(example):
    """The features that the model sees, the global one first."""
    return np.asarray(regions.visible_features({name: values[None] for name, values in example.items()}))[0]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return write_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture
def config(vocab):
    return make_config(vocab)


def dataset(config, shuffle=True, **kwargs):
    return Dataset(source(config, **kwargs), batch_size=config.batch_size, seed=config.seed, shuffle=shuffle)


def examples(config, count, **kwargs):
    """Every row in turn, each with a generator of its own."""
    opened = source(config, **kwargs)
    for number in range(count):
        yield number % len(opened), opened.example(number % len(opened), np.random.default_rng(number))


def test_batch_has_the_agreed_fields(config):
    batch = dataset(config)[0]
    expected = {
        "token_ids": ((8, T), np.int32), "token_types": ((8, T), np.int32), "text_mask": ((8, T), bool),
        "stored_features": ((8, R, F), np.float32), "feature_scales": ((8, R), np.float32),
        "region_visible": ((8, R), bool), "num_pooled": ((8,), np.int32), "region_boxes": ((8, R + 1, 5), np.float32),
        "region_mask": ((8, R + 1), bool), "masked_positions": ((8, M), np.int32), "token_labels": ((8, M), np.int32),
        "token_label_mask": ((8, M), bool), "target_probs": ((8, R, C), np.float32),
        "region_label_mask": ((8, R), bool), "alignment_labels": ((8,), np.int32), "example_mask": ((8,), bool),
        "example_index": ((8,), np.int32),
    }  # fmt: skip
    assert {name: (values.shape, values.dtype) for name, values in batch.items()} == expected


def test_caption_with_its_labels_put_back_is_the_caption(config):
    config = dataclasses.replace(config, mismatch_rate=0.0)
    opened, seen = source(config), 0
    for index, example in examples(config, 200):
        count = int(example["token_label_mask"].sum())
        restored = example["token_ids"].copy()
        restored[example["masked_positions"][:count]] = example["token_labels"][:count]
        assert opened.tokenizer.decode(restored) == opened.pair(index)[1]
        assert restored[example["text_mask"]][[0, -1]].tolist() == [opened.tokenizer.cls_id, opened.tokenizer.sep_id]
        assert example["text_mask"].sum() == 7
        for padding in (example["masked_positions"][count:], example["token_labels"][count:]):
            assert not padding.any()
        assert not example["token_types"].any()
        seen += count
    assert seen > 100


def test_long_captions_lose_their_tail_and_stay_within_the_cap(config):
    config = dataclasses.replace(config, mismatch_rate=0.0, token_mask_rate=1.0)
    rows = [{"image_id": b"image0", "caption": " ".join(WORDS[:20]).encode()}]
    (_, example), *_ = examples(config, 1, rows=rows)
    ids = load_tokenizer(config.vocab).encode(" ".join(WORDS[: T - 2]))
    assert example["text_mask"].all()
    assert example["masked_positions"].tolist() == [1, 2, 3]
    assert example["token_labels"].tolist() == ids[:3].tolist()
    assert example["token_ids"][4:-1].tolist() == ids[3:].tolist()


def test_regions_are_cut_padded_and_their_targets_are_those_before_masking(config):
    store = Store()
    for index, example in examples(config, 100):
        image = store[f"image{index // 2}"]
        kept = min(len(image.boxes), R)
        assert example["region_mask"].tolist() == [True] * (kept + 1) + [False] * (R - kept)
        np.testing.assert_array_equal(example["target_probs"][:kept], image.class_probs[:kept])
        features = seen(example)
        hidden = ~features[1 : kept + 1].any(axis=1)
        np.testing.assert_array_equal(features[1 : kept + 1][~hidden], image.features[:kept][~hidden])
        visible = features[1 : kept + 1][~hidden]
        np.testing.assert_allclose(features[0], visible.mean(axis=0) if len(visible) else 0, atol=1e-6)
        np.testing.assert_allclose(example["region_boxes"][1 : kept + 1, 0] * 120, image.boxes[:kept, 0], rtol=1e-5)
        np.testing.assert_array_equal(hidden, ~example["region_visible"][:kept])
        for values in (features, example["region_boxes"]):
            assert not values[kept + 1 :].any()
        assert not example["target_probs"][kept:].any()
        assert not example["region_label_mask"][kept:].any()


def test_masking_rates_in_examples(config):
    config = dataclasses.replace(config, mismatch_rate=0.25)
    tokens, regions, mismatches = [], [], []
    for index, example in examples(config, 4000):
        tokens.append(example["token_label_mask"].sum() / 5)
        regions.append(example["region_label_mask"].sum() / min(index // 2 % 6 + 1, R))
        mismatches.append(example["alignment_labels"])
    assert abs(np.mean(tokens) - 0.15) < 0.01
    assert abs(np.mean(regions) - 0.15) < 0.015
    assert abs(np.mean(mismatches) - 0.25) < 0.02


def test_recipe_and_rates_reach_the_masking(config):
    hide_all = dataclasses.replace(config, region_mask_rate=1.0, region_masking="released", mismatch_rate=0.0)
    opened = source(hide_all)
    for index in range(4, 12):
        example = opened.example(index, np.random.default_rng(index))
        image = Store()[f"image{index // 2}"]
        rng = np.random.default_rng(index)
        rng.random()  # whether the pair matches
        rng.random(5)  # which words
        rng.integers(opened.tokenizer.vocab_size, size=5)
        kept = min(len(image.boxes), R)
        masked = mask_regions(image.boxes[:kept], rng.random(kept), recipe="released", rate=1.0)
        expected = (image.features[:kept] * ~masked.hidden[:, None]).sum(axis=0) / kept
        np.testing.assert_allclose(seen(example)[0], expected, rtol=1e-6)


def test_mismatched_captions_come_uniformly_from_other_images(config):
    config = dataclasses.replace(config, mismatch_rate=1.0, token_mask_rate=0.0)
    opened = source(config)
    counts = np.zeros(2 * NUM_IMAGES)
    for number in range(6000):
        example = opened.example(7, np.random.default_rng(number))
        assert example["alignment_labels"] == 1
        words = opened.tokenizer.decode(example["token_ids"]).split()
        counts[int(words[2].removeprefix("n"))] += 1
    assert counts[6] == counts[7] == 0  # both captions of the image, its own and the other
    np.testing.assert_allclose(np.delete(counts, [6, 7]) / 6000, 1 / 22, atol=0.012)


def test_mismatched_captions_differ_in_text_even_where_nearly_all_are_alike(config):
    rows = [{"image_id": f"image{i % NUM_IMAGES}", "caption": "the same"} for i in range(3000)]
    rows[1234]["caption"] = "the red n39"
    config = dataclasses.replace(config, mismatch_rate=1.0, token_mask_rate=0.0)
    opened = source(config, rows=rows)
    example = opened.example(5, np.random.default_rng(0))
    assert opened.tokenizer.decode(example["token_ids"]) == "the red n39"


@pytest.mark.parametrize(
    "rows",
    [
        [{"image_id": "image0", "caption": f"n{i}"} for i in range(5)],
        [{"image_id": f"image{i}", "caption": "a red circle"} for i in range(5)],
    ],
)
def test_corpus_without_another_caption_is_refused_when_opened(config, rows):
    with pytest.raises(InputError, match="no mismatched caption"):
        source(config, rows=rows)
    assert source(dataclasses.replace(config, mismatch_rate=0.0), rows=rows)


def test_feature_targets_are_the_unmasked_features(config):
    config = dataclasses.replace(config, region_targets="features", region_mask_rate=0.5)
    store = Store(with_classes=False)
    opened = source(config, store=store)
    assert opened.target_dim == F
    for index, example in examples(config, 20, store=store):
        image = store[f"image{index // 2}"]
        kept = min(len(image.boxes), R)
        np.testing.assert_array_equal(regions.decoded_features(example)[:kept], image.features[:kept])


def test_store_without_class_probabilities_is_refused_for_that_target(config):
    with pytest.raises(InputError, match="region_targets='features'"):
        source(config, store=Store(with_classes=False))
    partly = Store()
    partly["image0"] = partly["image0"]._replace(class_probs=None)
    with pytest.raises(InputError, match=r"image 'image0'.*region_targets='features'"):
        source(config, store=partly).example(0, np.random.default_rng(0))


def test_image_that_the_store_lacks_is_named(config):
    store = Store()
    del store["image3"]
    with pytest.raises(InputError, match=r"image 'image3'.*toy_regions/small"):
        source(config, store=store).example(6, np.random.default_rng(0))


def test_nce_negatives_are_other_images_and_other_regions():
    rng, rows, regions = np.random.default_rng(0), 5, 4
    seen = np.zeros((rows * regions, rows * regions), int)
    for _ in range(300):
        for row in range(rows):
            flat = nce_negatives(rng, row=row, num_rows=rows, num_regions=regions, num_negatives=20)
            assert flat.shape == (regions, 20)
            assert flat.dtype == np.int32
            assert (flat[:, :14] // regions != row).all()
            assert (flat[:, 14:] // regions == row).all()
            own = row * regions + np.arange(regions)
            assert (flat != own[:, None]).all()
            for region in range(regions):
                np.add.at(seen[own[region]], flat[region], 1)
    # Per region: 14 of 20 spread over 4 x 4 regions of other images, 6 over 3 of its own; 300 rounds.
    image = np.arange(rows * regions) // regions
    same_image = image[:, None] == image[None, :]
    np.testing.assert_allclose(seen[~same_image] / 300, 14 / 16, atol=0.3)
    np.testing.assert_allclose(seen[same_image & ~np.eye(20, dtype=bool)] / 300, 6 / 3, atol=0.4)


def test_128_negatives_are_127_as_released():
    flat = nce_negatives(np.random.default_rng(0), row=0, num_rows=8, num_regions=36, num_negatives=128)
    assert (flat // 36 != 0).sum(axis=1).tolist() == [89] * 36
    assert flat.shape == (36, 127)


def test_negatives_in_batches_do_not_depend_on_hosts(config):
    config = dataclasses.replace(config, region_targets="features", num_nce_negatives=10)
    whole = dataset(config)
    batch = whole[3]
    assert batch["nce_negatives"].shape == (8, R, 10)
    assert (batch["nce_negatives"] < 8 * R).all()
    halves = [
        Dataset(source(config), batch_size=8, seed=0, shuffle=True, host_index=host, host_count=2)[3]["nce_negatives"]
        for host in (0, 1)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), batch["nce_negatives"])
    assert (whole[4]["nce_negatives"] != batch["nce_negatives"]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"text_length": 2}, "text_length is 2"),
        ({"token_mask_rate": 1.5}, "token_mask_rate is 1.5"),
        ({"region_masking": "none"}, "hide_overlaps, readable_overlaps, released, released_multitask"),
        ({"region_targets": "labels"}, "class_probs, features"),
        ({"num_nce_negatives": 20}, "region_targets='features'"),
        ({"num_nce_negatives": 20, "region_targets": "features", "batch_size": 1}, "batch_size is 1"),
    ],
)
def test_unusable_config_values_are_named(config, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config, **changes)


class ToyCaptions(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.10.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="small")]  # noqa: RUF012  (TFDS's own convention)

    def _info(self):
        features = {"image_id": tfds.features.Text(), "caption": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "validation": self._generate_examples(6)}

    def _generate_examples(self, count):
        yield from enumerate(pairs(count))


class ToyRegions(RegionStoreBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="small")]  # noqa: RUF012
    pkg_dir_path = epath.Path(__file__).parent

    def feature_contract(self):
        return contract()

    def region_shards(self, dl_manager):
        return {"train": [lambda: iter(Store().values())]}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (ToyCaptions, ToyRegions):
        builder(data_dir=folder, config="small", file_format="array_record").download_and_prepare()
    versions = folder / "toy_captions" / "small"
    (versions / "1.11.0").mkdir()  # an unfinished version
    shutil.copytree(versions / "1.10.0", versions / "1.9.0")  # an older version, with data that would not read
    next((versions / "1.9.0").glob("*train*")).write_bytes(b"")
    return folder


def test_config_opens_data_on_disk(config, data_folder, monkeypatch):
    config = dataclasses.replace(config, data_dir=str(data_folder))
    training = make_dataset(config, workers=2)
    assert len(training.source) == 20
    assert training[0]["token_ids"].shape == (8, T)
    validation = make_dataset(config, split="validation")
    assert len(validation) == 1
    assert validation[0]["example_mask"].sum() == 6
    again = pickle.loads(pickle.dumps(training))[5]
    for name, values in training[5].items():
        np.testing.assert_array_equal(again[name], values)
    with training.iterate(5) as batches:
        for name, values in next(batches).items():
            np.testing.assert_array_equal(again[name], values)

    monkeypatch.setenv("TFDS_DATA_DIR", str(data_folder))
    by_environment = dataclasses.replace(config, data_dir=None, regions=str(data_folder / "toy_regions" / "small"))
    np.testing.assert_array_equal(make_dataset(by_environment)[0]["region_boxes"], training[0]["region_boxes"])


def test_missing_data_names_the_command_that_builds_it_and_the_embedded_run(config, data_folder, tmp_path):
    missing = dataclasses.replace(
        config,
        annotations="conceptual_captions",
        data_dir=str(tmp_path),
        build_hint="python tfds_builders/build.py conceptual_captions --manual_dir=DIR --data_dir=DIR",
        embedded_hint="python experiments/pretrain.py --config=configs/base.py:scenes",
    )
    with pytest.raises(InputError) as error:
        missing.open("train")
    for part in ("'conceptual_captions'", str(tmp_path), missing.build_hint, missing.embedded_hint):
        assert part in str(error.value)

    without_regions = dataclasses.replace(config, data_dir=str(data_folder), regions="other/store", embedded_hint="")
    with pytest.raises(InputError) as error:
        without_regions.open("train")
    made_up = f"python tfds_builders/build.py other --config=store --data_dir={data_folder}"
    assert made_up in str(error.value)
    assert "embedded" not in str(error.value)
    without_dump = dataclasses.replace(without_regions, regions="region_features/cc", build_hint="make captions")
    with pytest.raises(InputError) as error:
        without_dump.open("train")
    assert f"build.py region_features --config=cc --source=PATH --contract=DETECTOR --data_dir={data_folder}" in str(
        error.value
    )
    assert f"extract_features.py --weights=DETECTOR --images=PICTURES --output={data_folder}/region_features/cc" in str(
        error.value
    )
    assert "make captions" not in str(error.value)


def test_a_share_of_a_split_is_opened_by_percent(config, data_folder):
    config = dataclasses.replace(config, data_dir=str(data_folder))
    splits = ("train", "train[:25%]", "train[:25%]+validation[50%:]", "validation")
    whole, share, both, held_out = (config.open(split) for split in splits)
    pairs_of = [[source.pair(k) for k in range(len(source))] for source in (whole, share, both, held_out)]
    assert pairs_of[1] == pairs_of[0][:5]
    assert pairs_of[2] == pairs_of[0][:5] + pairs_of[3][3:]
    manifests = {source.coverage.manifest for source in (whole, share, both)}
    assert len(manifests) == 3
    assert {source.rows.dataset_info.full_name for source in (whole, share)} == {"toy_captions/small/1.10.0"}
    assert config.embedded_names() == []
    assert dataclasses.replace(config, regions="scenes/regions").embedded_names() == ["scenes/regions"]


def test_missing_split_and_vocabulary_are_named(config, data_folder):
    here = dataclasses.replace(config, data_dir=str(data_folder))
    with pytest.raises(InputError, match="no split 'test': it has train, validation"):
        here.open("test")
    with pytest.raises(InputError, match="no vocabulary"):
        dataclasses.replace(here, vocab=str(data_folder / "vocab.txt")).open("train")
    with pytest.raises(InputError, match="is a TFDS data set, but not a region store"):
        dataclasses.replace(here, regions="toy_captions/small").open("train")


def test_a_probe_hides_one_content_word_of_the_true_pair_and_no_region(config):
    groups = {"colour": ["red", "blue"], "unknown": ["zebra fish"]}
    opened = PretrainingSource(pairs(), Store(), load_tokenizer(config.vocab), config, groups)
    red, mask = opened.tokenizer.encode("red")[0], opened.tokenizer.mask_id
    assert opened.word_groups == {"colour": sorted(opened.tokenizer.encode("red blue").tolist()), "unknown": []}
    probe = opened.probe(5)
    assert probe.tokens == ["a", "red", "n5", "is", "left"]
    assert probe.record.image_id == "image2"
    fields = probe.fields
    assert fields["alignment_labels"] == 0
    assert (fields["token_ids"] == mask).nonzero()[0].tolist() == [2]  # behind [CLS] and "a"
    assert fields["masked_positions"][0] == 2
    assert fields["token_labels"][0] == red
    assert fields["token_label_mask"].sum() == 1
    assert not fields["region_label_mask"].any()
    np.testing.assert_array_equal(seen(fields)[1:4], probe.record.features)
    again = opened.probe(5).fields
    assert all(np.array_equal(fields[name], again[name]) for name in fields)
