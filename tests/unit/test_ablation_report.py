import csv
import dataclasses
import random
import re

import pytest
import toy_grid as toy

from vilbert_jax.ablation.estimates import Results
from vilbert_jax.ablation.grid import Value, Variant
from vilbert_jax.ablation.report import CSV, MARKDOWN, write_results
from vilbert_jax.ablation.tables import (
    PAPER,
    difference_table,
    markdown,
    pretraining_table,
    score_table,
)
from vilbert_jax.errors import InputError

TWO, PLAIN, ONE = (toy.BY_NAME[name] for name in ("two_stream", "two_stream_scratch", "single_stream"))


def cells(table):
    """Title -> cells of its line, without the paper's lines."""
    return {line[0]: line[1:] for line in table[1:] if line[0] != PAPER}


def scores(given, columns=(toy.QUESTIONS,), sizes=None, variants=(TWO, PLAIN, ONE)):
    return score_table(variants, columns, toy.results(given), sizes or {})


def test_scores_stand_above_the_papers():
    table = scores({"two_stream": [1.0, 2.0, 3.0], "two_stream_scratch": [10.25], "single_stream": ["failed"]})
    assert table == [
        ["", "seeds", "VQA"],
        ["two streams", "3", "2.0 ± 2.5"],
        [PAPER, "", "70.55 [c]"],
        ["two streams, plain", "1", "10.2"],
        [PAPER, "", "68.93 [c]"],
        ["one stream", "0", "failed"],
        [PAPER, "", "68.85 [r]"],
    ]


def test_a_loss_has_three_decimals_and_no_figure_of_the_paper():
    table = score_table([TWO], [toy.REGION_LOSS], toy.results({"two_stream": [1.5, 1.75]}, toy.REGION_LOSS), {})
    assert table[1:] == [["two streams", "2", "1.625 ± 1.588"]]


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (["failed", "failed", "failed"], "failed"),
        (["missing", "failed", "missing"], "failed"),
        (["missing", "missing", "missing"], "missing"),
        ([], "missing"),
        (["empty", "empty", "empty"], "–"),
    ],
    ids=str,
)
def test_cells_without_a_value_say_why(row, shown):
    assert cells(scores({"single_stream": [50.0, 51.0, 52.0], "two_stream": row}))["two streams"] == ["0", shown]


def test_a_cell_with_fewer_seeds_than_its_row_says_so():
    given = toy.values({"two_stream": [50.0, 52.0, 51.0]}) + toy.values({"two_stream": [30.0, "failed"]}, toy.ZERO_SHOT)
    given += toy.values({"single_stream": [50.0, 52.0]}) + toy.values({"single_stream": [1.0, 3.0]}, toy.ZERO_SHOT)
    table = cells(score_table([TWO, ONE], toy.COLUMNS[:2], Results(toy.VARIANTS, toy.COLUMNS, given), {}))
    assert table["two streams"] == ["3", "51.0 ± 2.5", "30.0 (1 seed)"]
    assert table["one stream"] == ["2", "51.0 ± 12.7", "2.0 ± 12.7"]  # as many as its row


def test_sizes_stand_where_models_differ():
    given = {"two_stream": [1.0], "single_stream": [1.0]}
    sizes = {"two_stream": (238_812_345, 27_100_000_000), "two_stream_scratch": (238_812_345, 27_100_000_000)}
    assert scores(given, sizes=sizes)[0] == ["", "seeds", "VQA"]
    table = scores(given, sizes={**sizes, "single_stream": (812_345, 999)})
    assert table[0] == ["", "seeds", "parameters", "forward FLOPs", "VQA"]
    assert cells(table)["two streams"] == ["1", "239 M", "27.1 G", "1.0"]
    assert cells(table)["one stream"] == ["1", "812 k", "999", "1.0"]
    assert table[2] == [PAPER, "", "", "", "70.55 [c]"]


def test_differences_are_bold_where_their_interval_leaves_out_zero():
    given = {
        "two_stream": [50.0, 60.0, 70.0],
        "single_stream": [48.0, 58.5, 68.0],
        "two_stream_scratch": [51.0, 58, 70],
    }
    given["single_stream_scratch"] = ["failed", "failed", "failed"]
    table = cells(difference_table(toy.VARIANTS[:4], [toy.QUESTIONS], toy.results(given), TWO))
    assert table == {
        "two streams, plain": ["-0.3 ± 3.8"],
        "one stream": ["**-1.8 ± 0.7**"],
        "one stream, plain": ["failed"],
    }


def test_differences_of_one_seed_are_never_bold():
    given = {"two_stream": [50.0], "single_stream": [8.0], "two_stream_scratch": ["missing"]}
    table = cells(difference_table([TWO, PLAIN, ONE], [toy.QUESTIONS], toy.results(given), TWO))
    assert table == {"one stream": ["-42.0"], "two streams, plain": ["missing"]}


def test_a_failed_reference_leaves_no_differences():
    given = {"two_stream": ["failed", "failed"], "single_stream": [8.0, 9.0]}
    assert cells(difference_table([TWO, ONE], [toy.QUESTIONS], toy.results(given), TWO)) == {"one stream": ["failed"]}


def test_differences_of_different_seeds_are_missing():
    given = {"two_stream": [50.0, "missing"], "single_stream": ["missing", 8.0]}
    assert cells(difference_table([TWO, ONE], [toy.QUESTIONS], toy.results(given), TWO)) == {"one stream": ["missing"]}


def test_the_papers_differences_stand_below_ours():
    data = [toy.BY_NAME[name] for name in ("data_25", "data_100")]
    results = toy.results({"two_stream": [50.0], "data_25": [49.0], "data_100": [50.0]})
    table = difference_table([TWO, PLAIN, *data], [toy.QUESTIONS], results, TWO)
    assert table[2] == [PAPER, "-1.62 [c]"]
    assert table[3:] == [["25 %", "-1.0"], [PAPER, "-0.73 [r]"]]  # 100 % is the reference itself


def test_the_paper_has_no_difference_between_two_trainings_of_its_one_model():
    deep = Variant(name="depth_6", title="6 layers", group="depth", model=("text.num_layers=8",))
    variants = [TWO, deep]
    given = [*toy.values({"two_stream": [50.0]}), Value("depth_6", "questions", 0, 49.0, "done")]
    results = Results(variants, [toy.QUESTIONS], given)
    assert difference_table(variants, [toy.QUESTIONS], results, TWO)[1:] == [["6 layers", "-1.0"]]


def test_what_pretraining_adds():
    given = {"two_stream": [50.0, 60.0], "two_stream_scratch": [40.0, 49.0], "data_0": [30.0, 30.0]}
    table = pretraining_table(toy.VARIANTS, [toy.QUESTIONS], toy.results({**given, "data_100": [50.0, 60.0]}))
    assert table[:3] == [["", "VQA"], ["two streams", "**+10.5 ± 6.4**"], [PAPER, "+1.62 [c]"]]
    assert cells(table).keys() == {"two streams", "one stream"}  # 100 % is two streams again


def test_markdown_is_aligned():
    text = markdown([["", "seeds", "a score"], ["two streams", "3", "1.0 ± 2.5"], [PAPER, "", "70.55 [c]"]])
    assert text.splitlines() == [
        "|             | seeds |   a score |",
        "| ----------- | ----: | --------: |",
        "| two streams |     3 | 1.0 ± 2.5 |",
        "| *the paper* |       | 70.55 [c] |",
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    write_results(folder, toy.VARIANTS, toy.COLUMNS, toy.everything(), toy.FACTS)
    return folder


def test_csv_has_a_line_for_each_value_and_reads_back(written):
    lines = list(csv.DictReader((written / CSV).read_text().splitlines()))
    assert len(lines) == len(toy.VARIANTS) * len(toy.COLUMNS) * 3
    read = [
        Value(line["variant"], line["column"], int(line["seed"]), float(line["value"]) if line["value"] else None,
              line["status"])
        for line in lines
    ]  # fmt: skip
    assert read == toy.everything()
    assert lines[4] == {
        "group": "models", "variant": "two_stream", "column": "zero_shot", "metric": "caption_to_image/recall@1",
        "split": "test[:200]", "seed": "1", "status": "done", "value": "42.5",
    }  # fmt: skip


def test_csv_names_cells_that_were_never_reached(tmp_path):
    write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, toy.values({"two_stream": [50.0, "failed"]}), toy.FACTS)
    lines = list(csv.DictReader((tmp_path / CSV).read_text().splitlines()))
    assert len(lines) == len(toy.VARIANTS) * len(toy.COLUMNS) * 2
    assert [line["status"] for line in lines[:3]] == ["done", "failed", "missing"]
    assert {line["value"] for line in lines[1:]} == {""}


def test_the_page_has_a_table_a_group_and_its_plots(written):
    page = (written / MARKDOWN).read_text()
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == [
        "Models", "Share of the pre-training data", "Objectives", "Does pre-training help?",
        "Does it help? Differences to: two streams", "Failed or missing", "What it took",
    ]  # fmt: skip
    for picture in re.findall(r"!\[.*\]\((.*)\)", page):
        assert (written / picture).is_file()
    assert len(re.findall(r"!\[", page)) == 3  # there is no group of depths
    objectives = page.split("## Objectives")[1].split("##")[0]
    assert "| two streams" in objectives  # what the only variant of the group is compared with
    assert "Seeds: 0, 1, 2." in page
    assert "VQA: VQA v2 test-dev; zero-shot: Flickr30k zero-shot R@1." in page
    assert "only the directions of differences can be compared" in page
    assert "## Failed or missing\n\nNone of 54." in page
    assert page.endswith("wall time: 30 minutes\n* processor time, cores held by runs: 2.0 hours\n")
    assert toy.FACTS.command in page


def test_expected_false_alarms_are_counted(written):
    page = (written / MARKDOWN).read_text()
    table = page.split("## Does it help?")[1].split("##")[0]
    count = sum("±" in cell for line in table.splitlines() for cell in line.split("|"))
    assert count == 11
    assert f"if nothing differed, about 1 of these {count} would be bold" in table


def test_tables_of_real_data_do_not_warn_of_the_embedded(tmp_path):
    columns = [dataclasses.replace(toy.QUESTIONS, recipe="configs/vqa.py")]
    write_results(tmp_path, toy.VARIANTS, columns, toy.values({"two_stream": [50.0]}), toy.FACTS)
    page = (tmp_path / MARKDOWN).read_text()
    assert "70.55 [c]" in page
    assert "embedded" not in page


def test_models_that_the_paper_has_not_stand_by_themselves(tmp_path):
    variants = [Variant(name="pretrained", title="with pre-training")]
    given = [value._replace(variant="pretrained") for value in toy.values({"two_stream": [50.0]})]
    write_results(tmp_path, variants, toy.COLUMNS, given, toy.FACTS._replace(reference="pretrained"))
    page = (tmp_path / MARKDOWN).read_text()
    assert "paper" not in page
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == ["Variants", "Failed or missing", "What it took"]


def test_gaps_are_listed_by_name(tmp_path):
    given = toy.values({"two_stream": ["failed", 50.0, "failed"]}) + toy.values(
        {"data_0": ["empty"] * 3}, toy.ZERO_SHOT
    )
    write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, given, toy.FACTS)
    gaps = (tmp_path / MARKDOWN).read_text().split("## Failed or missing")[1].split("##")[0]
    assert "Values that are there: 1. These are not:" in gaps
    assert "* failed: two_stream, questions, seed 0, 2\n" in gaps
    assert "* missing: single_stream, zero_shot, seed 0, 1, 2\n" in gaps
    assert "data_0, zero_shot" not in gaps


def test_the_same_values_give_the_same_bytes_in_any_order(written, tmp_path):
    shuffled = toy.everything()
    random.Random(1).shuffle(shuffled)
    write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, shuffled, toy.FACTS)
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_an_unknown_reference_is_refused_before_anything_is_written(tmp_path):
    facts = toy.FACTS._replace(reference="gone")
    with pytest.raises(InputError, match="reference 'gone' is no variant of the grid; it has .*two_stream"):
        write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, toy.everything(), facts)
    assert not list(tmp_path.iterdir())
