"""Annotations joined with region stores, and the fields that every task makes of them."""

import dataclasses
import pickle
import shutil

import numpy as np
import pytest
import toy_tasks as toy
from toy_tasks import CLS, SEP, ids_of

from vilbert_jax.data.annotations import id_bytes, open_annotations, row_image_ids
from vilbert_jax.data.coverage import keep_covered
from vilbert_jax.data.examples import text_of, texts_of
from vilbert_jax.data.person_names import NAMES, read_names
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.regions import task_features


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    toy.write_all(folder)
    return folder


def opened(root, split="validation", features=("question",), given="none", annotations="toy_vqa", **fields):
    return toy.examples_config(root, annotations, **fields).open(split, features, given=given)


def image_ids(examples):
    return [examples.image_id(k) for k in range(len(examples))]


# --- what is opened


def test_a_split_is_its_rows_with_what_is_known_of_them(root):
    examples = opened(root)
    assert image_ids(examples) == ["moon", "tree", "kite"]
    assert examples.contract == toy.CONTRACT
    assert examples.metadata["answers"] == list(toy.ANSWERS)
    assert (examples.coverage.pairs, examples.coverage.pairs_used) == (3, 3)
    assert texts_of(examples.rows[1]["answers"]) == ["two"] * 5 + ["one"] * 4 + ["zero"]
    assert image_ids(pickle.loads(pickle.dumps(examples))) == ["moon", "tree", "kite"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train+validation", ["kite", "lake", "moon", "tree", "kite"]),
        ("validation+train", ["moon", "tree", "kite", "kite", "lake"]),
        ("train+validation[:-2]", ["kite", "lake", "moon"]),
        ("validation[-2:]", ["tree", "kite"]),
        ("train[1:]+validation[1:2]+test", ["lake", "tree", "moon", "tree"]),
        ("train[:50%]", ["kite"]),
        ("train[50%:]+validation[:67%]", ["lake", "moon", "tree"]),
        ("validation[-33%:]+train[:50%]", ["kite", "kite"]),
    ],
)
def test_several_splits_are_read_one_after_the_other(root, split, expected):
    examples = opened(root, split)
    assert image_ids(examples) == expected
    assert [image_id.decode() for image_id in id_bytes(row_image_ids(examples.rows))] == expected


def test_ids_of_several_splits_without_their_files_are_read_from_the_records(root, tmp_path):
    shutil.copytree(root / "toy_vqa", tmp_path / "toy_vqa")
    for file in tmp_path.rglob("row_image_ids-train.npy"):
        file.unlink()
    rows = open_annotations("toy_vqa", "train+test", data_dir=tmp_path, hint="")
    assert id_bytes(row_image_ids(rows)).tolist() == [b"kite", b"lake", b"moon", b"tree"]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("train+valid", "no split 'valid': it has .*train"),
        ("nothing[:3]+train", r"no split 'nothing\[:3\]'"),
        ("train+", "no split ''"),
        ("train+validation[:x]", "is no slice such as"),
        ("validation[:0]", "is empty"),
        ("validation[2:1]", "is empty"),
        ("validation[:10%]", "is empty"),
        ("train[:x%]", "is no slice such as"),
    ],
)
def test_an_unknown_part_of_several_splits_is_named(root, split, words):
    with pytest.raises(InputError, match=words):
        opened(root, split)


def test_rows_without_regions_are_left_out_and_counted(root):
    examples = opened(root, "holey")
    assert image_ids(examples) == ["moon"]
    assert str(examples.coverage) == "1 of 2 (50.0 %)"
    assert examples.rows.dataset_info.full_name == opened(root).rows.dataset_info.full_name == "toy_vqa/1.0.0"
    with pytest.raises(InputError, match=r"only 1 of 2 \(50.0 %\) pairs(.*\n)*.*min_coverage=0"):
        opened(root, "holey", min_coverage=0.6)


def test_an_image_counts_only_if_all_stores_have_it(root, tmp_path):
    toy.write_regions(tmp_path, "fewer", {name: toy.GIVEN[name] for name in ("kite", "tree")})
    fewer = str(tmp_path / "fewer")
    examples = opened(root, given="beside", given_regions=fewer)
    assert image_ids(examples) == ["tree", "kite"]
    assert (examples.coverage.pairs, examples.coverage.pairs_used, examples.coverage.images_absent) == (3, 2, 1)
    assert image_ids(opened(root, given_regions=fewer)) == ["moon", "tree", "kite"]  # named, but not read
    with pytest.raises(InputError, match="only 2 of 3.*\n.*\n.*\n.*fewer.* must have them too, and holds 2 images"):
        opened(root, given="candidates", given_regions=fewer, min_coverage=0.9)
    rows = open_annotations("toy_vqa", "validation", data_dir=root, hint="")
    store = RegionStore(root / "toy_regions")
    assert keep_covered(rows, store, RegionStore(tmp_path / "fewer"))[1] == examples.coverage
    assert keep_covered(rows, RegionStore(tmp_path / "fewer"), store)[1] == examples.coverage


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feature_dim": 5}, "feature_dim: 4 here, 5 there"),
        ({"detector": "another"}, "detector: 'toy' here, 'another' there"),
        ({"colour_order": "bgr"}, "colour_order"),
    ],
)
def test_given_boxes_with_features_of_another_kind_are_refused(root, tmp_path, changes, words):
    pictures = {
        name: picture._replace(features=[[1.0] * changes.get("feature_dim", 4)] * len(picture.boxes))
        for name, picture in toy.GIVEN.items()
    }
    toy.write_regions(tmp_path, "other", pictures, dataclasses.replace(toy.CONTRACT, **changes))
    with pytest.raises(InputError, match=words) as error:
        opened(root, given="beside", given_regions=str(tmp_path / "other"))
    assert "do not mean the same" in str(error.value)
    assert "given_regions" in str(error.value)


def test_given_boxes_may_be_other_boxes_and_know_other_classes(root, tmp_path):
    contract = dataclasses.replace(toy.CONTRACT, selection_rule="annotated", background="absent")
    toy.write_regions(tmp_path, "annotated", toy.GIVEN, contract)
    assert opened(root, given="beside", given_regions=str(tmp_path / "annotated")).contract == toy.CONTRACT


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"annotations": "toy_absent"}, ["no data set 'toy_absent'", "build.py toy_absent --data_dir="]),
        ({"annotations": "a/b"}, ["build.py a --config=b --data_dir="]),
        ({"regions": "toy_nothing"}, ["no region store 'toy_nothing'", "build.py toy_nothing"]),
        ({"given_regions": "gone", "given": "beside"}, ["no region store 'gone'", "build.py gone"]),
        (
            {"regions": "gone", "build_hint": "make data"},
            ["no region store 'gone'", "Build it:\n  python tfds_builders"],
        ),
        ({"annotations": "toy_absent", "build_hint": "make data"}, ["Build it:\n  make data"]),
        ({"annotations": "toy_absent", "embedded_hint": "try scenes"}, ["needs no download:\n  try scenes"]),
        ({"features": ("question", "box")}, ["has no feature 'box', only", "question_id"]),
        ({"annotations": "toy_regions"}, ["no feature 'question'"]),
        ({"vocab": "/nowhere/vocab.txt"}, ["/nowhere/vocab.txt"]),
    ],
)
def test_missing_data_say_what_to_do(root, fields, words):
    with pytest.raises(InputError) as error:
        opened(root, "train", **fields)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"text_length": 3}, "text_length is 3; it must be at least 4"),
        ({"max_regions": 0}, "max_regions is 0"),
        ({"min_coverage": 1.5}, "min_coverage is 1.5; it is a share"),
        ({"truncation": "tail"}, "truncation is 'tail'; use one of keep_sep, cut"),
    ],
)
def test_values_that_cannot_work_are_named(root, fields, words):
    with pytest.raises(InputError, match=words):
        toy.examples_config(root, "toy_vqa", **fields)


def test_embedded_sets_are_named_whatever_they_are_for(root):
    names = {"annotations": "scenes/vqa", "regions": "scenes/regions", "given_regions": "scenes/given_regions"}
    assert toy.examples_config(root, **names).embedded_names() == [*names.values()]
    assert toy.examples_config(root, "toy_vqa").embedded_names() == []


# --- the fields of a batch


@pytest.mark.parametrize(
    ("given", "features"),
    [
        ("none", [[1, 2, 0, 0], [3, 0, 0, 0], [2, 4, 3, 0]]),
        ("candidates", [[1, 2, 0, 0], [3, 0, 0, 0], [2, 4, 3, 0], [0, 0, 0, 1]]),
        ("beside", [[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 3]]),
    ],
)
def test_given_boxes_serve_their_purpose(root, given, features):
    examples = opened(root, given=given, given_regions="toy_given", max_regions=4)
    arrangement = examples.arrangement("kite")
    fields = examples.region_fields(arrangement)
    seen = np.asarray(task_features(fields))
    np.testing.assert_array_equal(seen[1 : len(features) + 1], features)
    # means are [2, 2, 1, 0] and [0, 0, 0, 2]; beside each other (4 * the one + 3 * the other) / 7
    mean = np.array([8, 8, 4, 6]) / 7 if given == "beside" else [2, 2, 1, 0]
    np.testing.assert_allclose(seen[0], mean, rtol=1e-6)


def test_two_blanked_pictures_are_the_same(root):
    for given in ("none", "candidates", "beside"):
        examples = opened(root, given=given, given_regions="toy_given", blank_pictures=True)
        first, second = (examples.region_fields(examples.arrangement(image_id)) for image_id in ("kite", "lake"))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        assert not np.any(task_features(first))
        assert not first["region_boxes"].any()
    seen = opened(root)
    assert seen.region_fields(seen.arrangement("kite"))["region_boxes"].any()


def test_texts_become_rows(root):
    examples = opened(root, text_length=6)
    fields = examples.text_fields("a red kite ?", "why ?", "a a a a blue red")
    kite, why, long = ids_of("a red kite ?"), ids_of("why ?"), ids_of("a a a a")
    assert fields["token_ids"].tolist() == [[CLS, *kite, SEP], [CLS, *why, SEP, 0, 0], [CLS, *long, SEP]]
    assert fields["text_mask"].tolist() == [[True] * 6, [True] * 4 + [False] * 2, [True] * 6]
    assert not fields["token_types"].any()
    assert {name: (x.shape, x.dtype) for name, x in fields.items()} == {
        "token_ids": ((3, 6), np.int32), "token_types": ((3, 6), np.int32), "text_mask": ((3, 6), bool),
    }  # fmt: skip


def test_a_long_text_is_cut_as_the_recipe_says(root):
    examples = opened(root, text_length=4, truncation="cut")
    assert examples.text_fields("a red kite ?")["token_ids"].tolist() == [[CLS, *ids_of("a red kite")]]


def test_one_text_stands_before_each_of_several(root):
    examples = opened(root, text_length=8)
    first = np.array(ids_of("what is it"), np.int32)
    fields = examples.pair_fields(first, [np.array(ids_of(text), np.int32) for text in ("a kite", "red", "")])
    what = ids_of("what is it")
    assert fields["token_ids"].tolist() == [
        [CLS, *what, SEP, *ids_of("a kite"), SEP],
        [CLS, *what, SEP, *ids_of("red"), SEP, 0],
        [CLS, *what, SEP, SEP, 0, 0],
    ]
    assert fields["token_types"].tolist() == [[0] * 5 + [1] * 3, [0] * 5 + [1] * 2 + [0], [0] * 5 + [1] + [0] * 2]
    assert fields["text_mask"].sum(axis=1).tolist() == [8, 7, 6]


def test_texts_are_read_as_bytes_or_text():
    assert text_of("é") == text_of("é".encode()) == "é"
    assert texts_of([b"a", "b"]) == ["a", "b"]


# --- names of persons


def test_the_names_are_distinct_single_words():
    assert len({name.lower() for name in NAMES}) == len(NAMES) > 50
    assert all(name.isalpha() and name.istitle() for name in NAMES)


def test_names_come_from_a_column_of_a_table(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text('id,name,share\n1,Robin,0.5\n2, Kim ,0.4\n3,"Jo, Ann",0.1\n4,,0\n5,Kim,0\n')
    assert read_names(path) == ("Robin", "Kim", "Jo, Ann")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read as a table of names"),
        (b"", "has no names"),
        (b"names\nKim\n", "a column 'name'"),
        (b"name\n\n", "has no names"),
        (b"name\n\xff\xfe\n", "cannot be read"),
    ],
)
def test_a_table_without_names_is_refused(tmp_path, content, words):
    path = tmp_path / "names.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_names(path)
