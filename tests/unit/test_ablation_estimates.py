import dataclasses
import math

import numpy as np
import pytest
import toy_grid as toy

from vilbert_jax.ablation.estimates import (
    Estimate,
    Results,
    distinct,
    estimate,
    is_percentage,
    less_is_better,
    same_runs,
    without_pretraining,
)
from vilbert_jax.ablation.grid import Value, Variant
from vilbert_jax.errors import InputError


# Quantiles of Student's t from a printed table: 0.975 with 1, 2, 4 degrees of freedom.
@pytest.mark.parametrize(
    ("scores", "mean", "half_width"),
    [
        ([1, 3], 2, 12.7062 * math.sqrt(2) / math.sqrt(2)),
        ([1, 2, 3], 2, 4.30265 / math.sqrt(3)),
        ([60.0, 62.0, 61.0, 65.0, 62.0], 62, 2.77645 * math.sqrt(3.5 / 5)),
    ],
)
def test_intervals_by_hand(scores, mean, half_width):
    found = estimate(scores)
    assert found.mean == mean
    assert found.half_width == pytest.approx(half_width, rel=1e-5)
    assert found.num_seeds == len(scores)


def test_an_interval_covers_the_truth_in_19_of_20_experiments():
    rng = np.random.default_rng(0)
    found = [estimate(row) for row in rng.normal(5, 2, (2000, 3))]
    assert np.mean([abs(one.mean - 5) <= one.half_width for one in found]) == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval_and_none_no_estimate():
    assert estimate([4.5]) == Estimate(4.5, None, 1)
    assert estimate([]) is None


def test_equal_values_have_an_interval_of_zero():
    assert estimate([0.1, 0.1, 0.1]) == Estimate(pytest.approx(0.1), 0.0, 3)


@pytest.mark.parametrize(
    ("found", "sign"),
    [
        (Estimate(2.0, 1.9, 3), 1),
        (Estimate(-2.0, 1.9, 3), -1),
        (Estimate(2.0, 2.0, 3), 0),
        (Estimate(-2.0, 2.1, 3), 0),
        (Estimate(9.0, None, 1), 0),
        (Estimate(0.0, 0.0, 3), 0),
    ],
)
def test_a_sign_needs_an_interval_without_zero(found, sign):
    assert found.sign == sign


def test_differences_are_paired_by_seed():
    """Seeds differ by ten points, the variants by one: unpaired the interval would hide the difference."""
    results = toy.results({"two_stream": [50.0, 60.0, 70.0], "single_stream": [49.0, 59.0, 69.5]})
    variant, reference = toy.BY_NAME["single_stream"], toy.BY_NAME["two_stream"]
    differences = results.differences(variant, reference, toy.QUESTIONS)
    assert differences == {0: -1.0, 1: -1.0, 2: -0.5}
    assert estimate(differences.values()).sign == -1


def test_differences_leave_out_seeds_that_one_of_them_lacks():
    results = toy.results({"two_stream": [50.0, "failed", 70.0], "single_stream": [49.0, 59.0]})
    found = results.differences(toy.BY_NAME["single_stream"], toy.BY_NAME["two_stream"], toy.QUESTIONS)
    assert found == {0: -1.0}


def test_a_cell_has_every_seed_of_the_grid():
    results = toy.results({"two_stream": [50.0, "failed", 70.0], "single_stream": [49.0]})
    assert results.seeds == (0, 1, 2)
    statuses = [value.status for value in results.cell(toy.BY_NAME["single_stream"], toy.QUESTIONS)]
    assert statuses == ["done", "missing", "missing"]
    assert dict(results.scores(toy.BY_NAME["two_stream"], toy.QUESTIONS)) == {0: 50.0, 2: 70.0}
    assert dict(results.scores(toy.BY_NAME["two_stream"], toy.REGION_LOSS)) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Value("gone", "questions", 0, 1.0, "done"), "variant 'gone'.*the grid has variants"),
        (Value("two_stream", "gone", 0, 1.0, "done"), "column 'gone'.*columns"),
        (Value("two_stream", "questions", 5, 1.0, "done"), "seed 5 occurs twice"),
        (Value("two_stream", "questions", 0, None, "done"), "is None and done"),
        (Value("two_stream", "questions", 0, 1.0, "failed"), "is 1.0 and failed"),
    ],
)
def test_values_that_fit_no_cell_are_refused(value, message):
    given = [Value("two_stream", "questions", 5, 1.0, "done"), value]
    with pytest.raises(InputError, match=message):
        Results(toy.VARIANTS, toy.COLUMNS, given)


def test_the_plain_model_of_a_pretrained_one():
    plain = {v.name: without_pretraining(v, toy.VARIANTS) for v in toy.VARIANTS}
    assert {name: other.name for name, other in plain.items() if other} == {
        "two_stream": "two_stream_scratch",
        "single_stream": "single_stream_scratch",
        "data_100": "data_0",  # not data_25: it has less to learn from
    }


def test_blank_pictures_have_no_plain_model():
    """Fine-tuned in another way, it is no counterpart of the model that is not pre-trained."""
    blank = Variant(name="blank", title="blank", group="models", finetuning=("blank_pictures=True",))
    assert without_pretraining(blank, [blank, *toy.VARIANTS]) is None


def test_same_runs():
    assert same_runs(toy.BY_NAME["two_stream"], toy.BY_NAME["data_100"])
    assert not same_runs(toy.BY_NAME["two_stream"], toy.BY_NAME["data_25"])
    assert not same_runs(toy.BY_NAME["two_stream"], toy.BY_NAME["two_stream_scratch"])
    # A start from BERT is another training than one at random, with pre-training and without.
    for one in (toy.BY_NAME["two_stream"], toy.BY_NAME["data_0"]):
        assert not same_runs(one, dataclasses.replace(one, init_from="bert-base-uncased"))
    # What a pre-training would have been makes no difference where there is none.
    plain = Variant(name="a", title="a", pretrained=False, pretraining=("seed=3",))
    assert same_runs(plain, toy.BY_NAME["data_0"])


def test_variants_of_the_same_runs_stand_once():
    names = [variant.name for variant in distinct(toy.VARIANTS)]
    assert names == [v.name for v in toy.VARIANTS if v.name not in ("data_0", "data_100")]


def test_kinds_of_columns():
    assert [less_is_better(column) for column in toy.COLUMNS] == [False, False, True]
    assert [is_percentage(column) for column in toy.COLUMNS] == [True, True, False]
