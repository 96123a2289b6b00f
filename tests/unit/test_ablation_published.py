import dataclasses
import runpy

import pytest

from vilbert_jax.ablation import published
from vilbert_jax.ablation.grid import Column, Grid

COLUMN = Column(name="c", title="c", recipe="configs/vqa.py", split="validation", metric="accuracy")


def column(recipe, metric, split="validation"):
    return dataclasses.replace(COLUMN, recipe=f"configs/{recipe}", metric=metric, split=split)


@pytest.mark.parametrize(
    ("variant", "given", "value", "confirmed"),
    [
        ("two_stream", column("vqa.py", "accuracy"), 70.55, True),
        ("two_stream", column("vqa.py:scenes", "accuracy", "test"), 70.55, True),
        ("two_stream", column("vcr_qa.py", "answer_accuracy"), 72.42, True),
        ("two_stream", column("vcr_qar.py", "rationale_accuracy"), 74.47, True),
        ("two_stream", column("vcr_qa.py", "joint_accuracy"), 54.04, True),
        ("two_stream_scratch", column("vcr_qar.py", "joint_accuracy"), 49.48, True),
        ("two_stream_scratch", column("vcr_qa.py", "answer_accuracy"), 69.26, False),
        ("two_stream_scratch", column("refcoco_plus.py", "accuracy_vilbert_rule"), 68.61, False),
        ("two_stream_scratch", column("refcoco_plus.py", "accuracy", "testA"), 75.97, True),
        ("two_stream_scratch", column("refcoco_plus.py", "accuracy", "testB[:9]"), 58.44, True),
        ("data_0", column("flickr30k.py", "caption_to_image/recall@1", "test"), 45.50, True),
        ("data_0", column("flickr30k.py", "caption_to_image/recall@5", "test"), 76.78, False),
        ("two_stream_scratch", column("zero_shot_flickr30k.py", "caption_to_image/recall@1", "test"), 0.0, False),
        ("single_stream", column("refcoco_plus.py", "accuracy"), 69.21, False),
        ("depth_2", column("zero_shot_flickr30k.py", "caption_to_image/recall@1"), 26.14, True),
        ("depth_2", column("zero_shot_flickr30k.py", "caption_to_image/recall@10"), 68.80, False),
        ("depth_6", column("flickr30k.py", "caption_to_image/recall@10"), 91.52, True),
        ("depth_8", column("zero_shot_flickr30k.py", "caption_to_image/recall@1"), 32.80, True),
        ("data_25", column("zero_shot_flickr30k.py", "caption_to_image/recall@1"), 20.40, False),
        ("data_100", column("vqa.py", "accuracy"), 70.55, True),
        ("masking_released", column("zero_shot_flickr30k.py", "caption_to_image/recall@1"), 31.86, True),
    ],
    ids=str,
)
def test_figures_and_their_marks(variant, given, value, confirmed):
    found = published.figure(variant, given)
    assert (found.value, found.confirmed) == (value, confirmed)


@pytest.mark.parametrize(
    ("variant", "given"),
    [
        ("single_stream", column("flickr30k.py", "caption_to_image/recall@1")),  # the paper has none
        ("single_stream_compute", column("vqa.py", "accuracy")),
        ("two_stream", column("vqa.py", "soft_accuracy")),
        ("two_stream", column("flickr30k.py", "image_to_caption/recall@1")),
        ("two_stream", column("flickr30k.py", "accuracy")),
        ("two_stream", column("tiny.py", "region_loss")),
        ("two_stream", dataclasses.replace(COLUMN, recipe="", metric="region_loss")),
        ("gone", COLUMN),
    ],
    ids=str,
)
def test_cells_that_the_paper_has_not(variant, given):
    assert published.figure(variant, given) is None


def test_the_tables_are_whole():
    """13 figures of every model, 7 of single streams, and 4 more of the full model by the test servers."""
    full = published.figures("two_stream")
    assert len(full) == 17
    assert full["VCR test Q->AR"] == published.Figure(54.8, "VCR test Q->AR", True)
    assert all(figure.confirmed for figure in full.values())
    for name in ("two_stream_scratch", "depth_2", "depth_4", "depth_8", "data_25", "data_50"):
        assert len(published.figures(name)) == 13, name
    assert len(published.figures("single_stream")) == len(published.figures("single_stream_scratch")) == 7
    counts = {name: sum(f.confirmed for f in published.figures(name).values()) for name in published._ROWS}
    assert {name: count for name, count in counts.items() if count} == {
        "two_stream": 17, "two_stream_scratch": 5, "depth_2": 1, "depth_8": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(published._ROWS))
def test_figures_are_those_of_one_model(name):
    """Slips of the pen: recall grows with its depth, and both answers of VCR are right less often than either."""
    values = {measure: figure.value for measure, figure in published.figures(name).items()}
    for task in ("Flickr30k", "Flickr30k zero-shot"):
        recalls = [values[f"{task} R@{k}"] for k in (1, 5, 10) if f"{task} R@1" in values]
        assert recalls == sorted(recalls)
    answer, reason, both = (values[f"VCR val {passes}"] for passes in ("Q->A", "QA->R", "Q->AR"))
    assert answer + reason - 100 < both < min(answer, reason)
    assert values["RefCOCO+ testB"] < values["RefCOCO+ val"] < values["RefCOCO+ testA"]


def test_only_scores_of_the_same_data_are_comparable():
    assert published.comparable(COLUMN)
    assert not published.comparable(column("vqa.py:scenes", "accuracy"))
    assert not published.comparable(column("base.py", "region_loss"))


@pytest.mark.parametrize("data", ["real", "scenes"])
def test_the_grid_of_the_paper_finds_its_figures(data):
    """Names in configs/ablation.py are those of the paper's rows, and each of its scores is one of the paper's."""
    grid = Grid.from_dict(runpy.run_path("configs/ablation.py")["get_config"](data).to_dict())
    named = {variant.name for variant in grid.variants}
    assert named >= {*published._ROWS, *published._SAME}
    scores = [one for one in grid.columns if one.metric != "region_loss"]
    measures = [published.measure_of(one) for one in scores]
    assert measures == [
        "VQA v2 test-dev", "VCR val Q->A", "VCR val QA->R", "VCR val Q->AR", "RefCOCO+ val", "Flickr30k R@1",
        "Flickr30k zero-shot R@1",
    ]  # fmt: skip
    assert all(published.comparable(one) == (data == "real") for one in scores)
