"""Rows of two texts, and both ways to cut a text that is too long: token by token."""

import numpy as np
import pytest
import toy_tasks as toy
from toy_tasks import CLS, SEP

from vilbert_jax.data.text import load_tokenizer, pack, pack_pair


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(toy.write_vocabulary(tmp_path_factory.mktemp("vocab")))


def cut_one_at_a_time(first, second, room):
    """As ``_truncate_seq_pair`` of the reference does, on copies."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


def test_a_pair_stands_in_one_row(tokenizer):
    row = pack_pair(np.array([7, 8, 9], np.int32), np.array([10, 11], np.int32), 10, tokenizer)
    assert row.token_ids.tolist() == [CLS, 7, 8, 9, SEP, 10, 11, SEP, 0, 0]
    assert row.token_types.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert row.text_mask.tolist() == [True] * 8 + [False] * 2
    assert (row.token_ids.dtype, row.token_types.dtype, row.text_mask.dtype) == (np.int32, np.int32, np.bool_)


def test_a_separator_inside_the_first_text_starts_no_second_one(tokenizer):
    row = pack_pair(np.array([7, SEP, 9], np.int32), np.array([10], np.int32), 8, tokenizer)
    assert row.token_ids.tolist() == [CLS, 7, SEP, 9, SEP, 10, SEP, 0]
    assert row.token_types.tolist() == [0, 0, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("length", [3, 4, 7, 8, 20])
def test_pairs_are_cut_as_the_reference_cuts_them(length, tokenizer):
    shortened = 0
    for num_first in range(11):
        for num_second in range(11):
            first, second = np.arange(5, 5 + num_first), np.arange(15, 15 + num_second)
            kept = cut_one_at_a_time(first, second, length - 3)
            expected = [CLS, *kept[0], SEP, *kept[1], SEP]
            row = pack_pair(first, second, length, tokenizer)
            assert row.token_ids[row.text_mask].tolist() == expected
            assert row.token_ids[len(expected) :].tolist() == [0] * (length - len(expected))
            assert row.token_types.sum() == len(kept[1]) + 1
            assert row.token_types.tolist() == sorted(row.token_types[: len(expected)]) + [0] * (length - len(expected))
            shortened += len(kept[0]) + len(kept[1]) < num_first + num_second
    assert shortened > 40 or length == 20


def test_a_pair_leaves_what_it_was_made_of_alone(tokenizer):
    """The reference shortens the question in place, for all choices that follow."""
    question = np.arange(5, 15)
    short = pack_pair(question, np.array([3, 3]), 9, tokenizer).token_ids
    pack_pair(question, np.arange(9), 9, tokenizer)
    np.testing.assert_array_equal(pack_pair(question, np.array([3, 3]), 9, tokenizer).token_ids, short)
    assert question.tolist() == [*range(5, 15)]


@pytest.mark.parametrize(
    ("pieces", "kept", "cut"),
    [
        ([7, 8], [CLS, 7, 8, SEP, 0], [CLS, 7, 8, SEP, 0]),
        ([7, 8, 9], [CLS, 7, 8, 9, SEP], [CLS, 7, 8, 9, SEP]),
        ([7, 8, 9, 10], [CLS, 7, 8, 9, SEP], [CLS, 7, 8, 9, 10]),
        ([7, 8, 9, 10, 11], [CLS, 7, 8, 9, SEP], [CLS, 7, 8, 9, 10]),
        ([], [CLS, SEP, 0, 0, 0], [CLS, SEP, 0, 0, 0]),
    ],
)
def test_a_long_text_keeps_its_separator_or_loses_it(pieces, kept, cut, tokenizer):
    for truncation, expected in (("keep_sep", kept), ("cut", cut)):
        row = pack(np.array(pieces, np.int32), 5, tokenizer, truncation=truncation)
        assert row.token_ids.tolist() == expected
        assert row.text_mask.tolist() == [token != 0 for token in expected]
        assert row.token_ids.dtype == np.int32
    np.testing.assert_array_equal(pack(np.array(pieces, np.int32), 5, tokenizer).token_ids, kept)  # the default
