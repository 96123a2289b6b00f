import csv
import dataclasses
import itertools
import random
import re
import runpy

import pytest
import toy_grid as toy

from vilbert_jax.ablation import published
from vilbert_jax.ablation.estimates import Results
from vilbert_jax.ablation.grid import Grid, Value, Variant
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


@pytest.mark.parametrize(("data", "base"), [("real", "depth_6"), ("scenes", "depth_2")])
def test_depths_are_compared_with_the_papers_row_of_the_same_depth(data, base):
    """The small model has two co-attention layers: what the paper has of its six must not stand for it."""
    grid = Grid.from_dict(runpy.run_path("configs/ablation.py")["get_config"](data).to_dict())
    reference = next(variant for variant in grid.variants if variant.name == grid.reference)
    columns = [column for column in grid.columns if column.name in ("flickr30k", "zero_shot")]
    results = Results(grid.variants, columns, [], reference=grid.reference)
    table = difference_table(grid.variants, columns, results, reference)
    below = {line[0]: after[1:] for line, after in itertools.pairwise(table) if after[0] == PAPER}
    figures = {name: published.figures(name) for name in published._ROWS | {"depth_6": ()}}
    shown = {int(title.split()[0]): cells for title, cells in below.items() if "co-attention layers" in title}
    assert shown.keys() == {2, 4, 6, 8} - {int(base[-1])}
    for depth, cells in shown.items():
        ours, theirs = figures[f"depth_{depth}"], figures[base]
        expected = [ours[m].value - theirs[m].value for m in ("Flickr30k R@1", "Flickr30k zero-shot R@1")]
        assert [float(cell.split()[0]) for cell in cells] == pytest.approx(expected, abs=0.006)
    assert below["25 % of the pairs"][0] == "-5.12 [r]"  # 53.08 less 58.20, whatever the depth
    assert "one stream, as in the paper" not in below  # the paper has no retrieval by it


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
    assert "3 seeds (0, 1, 2)." in page
    assert "Splits: `test` for VQA, region loss; `test[:200]` for zero-shot." in page
    assert "VQA: VQA v2 test-dev; zero-shot: Flickr30k zero-shot R@1." in page
    assert "only the directions of differences can be compared" in page
    assert "## Failed or missing\n\nNone of 54." in page
    assert "* machine: a machine\n" in page
    assert page.endswith("wall time: 30 minutes\n* processor time, cores held by runs: 2.0 hours\n")
    share = page.split("## Share of the pre-training data")[1].split("##")[0]
    assert "two streams" not in share  # "100 %" is the same training
    assert "Intervals cover the seeds of training alone" in page
    assert toy.FACTS.command in page


def test_every_machine_and_its_gpu_hours_are_named(tmp_path):
    facts = toy.FACTS._replace(machines=["one", "another"], gpu_seconds=3600.0)
    write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, toy.everything(), facts)
    page = (tmp_path / MARKDOWN).read_text()
    assert "* machine: one\n* machine: another\n" in page
    assert page.endswith("\n* GPU time, GPUs held by runs: 1.0 hours\n")


def test_operations_are_said_to_be_those_of_pretraining(tmp_path, written):
    sizes = {"two_stream": (9, 10), "single_stream": (9, 11)}
    write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, toy.everything(), toy.FACTS._replace(sizes=sizes))
    models, *others = (tmp_path / MARKDOWN).read_text().split("\n## ")[1:]
    assert "Models that cost as many operations do so at these lengths; at those of the tasks they differ" in models
    assert not any("operations" in other for other in others)
    assert "operations" not in (written / MARKDOWN).read_text()  # nothing is said of sizes there


def test_expected_false_alarms_are_counted(written):
    page = (written / MARKDOWN).read_text()
    table = page.split("## Does it help?")[1].split("##")[0]
    count = sum("±" in cell for line in table.splitlines() for cell in line.split("|"))
    assert count == 11
    assert f"if nothing differed, about 1 of these {count} would be bold" in table


def test_one_seed_raises_no_alarms(tmp_path):
    given = toy.values({"two_stream": [50.0], "single_stream": [8.0]})
    write_results(tmp_path, toy.VARIANTS, toy.COLUMNS, given, toy.FACTS)
    table = (tmp_path / MARKDOWN).read_text().split("## Does it help?")[1].split("##")[0]
    assert "Score less that of the same seed of the reference.\n" in table
    assert "1 seed (0). Every cell" in (tmp_path / MARKDOWN).read_text()
    assert "would be bold" not in table


SOME = dataclasses.replace(toy.ZERO_SHOT, groups=("objectives",))


def test_a_column_for_some_groups_stands_in_their_tables_alone(tmp_path):
    values = [
        value
        for value in toy.everything()
        if value.column != SOME.name or value.variant in ("two_stream", "no_token_loss")
    ]
    write_results(tmp_path, toy.VARIANTS, [toy.QUESTIONS, SOME], [v for v in values if v.column != "region_loss"],
                  toy.FACTS)  # fmt: skip
    parts = {part.partition("\n")[0]: part for part in (tmp_path / MARKDOWN).read_text().split("\n## ")}
    for heading in ("Models", "Share of the pre-training data", "Does pre-training help?"):
        assert "zero-shot |" not in parts[heading]
    objectives = parts["Objectives"].splitlines()
    assert next(line for line in objectives if line.startswith("| two streams")).count("±") == 2  # the reference too
    assert "zero-shot |" in parts["Objectives"]
    differences = parts["Does it help? Differences to: two streams"]
    lines = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in differences.splitlines() if "|" in line}
    assert lines["one stream"] == ""
    assert "±" in lines["no words"]
    assert "None of 30." in parts["Failed or missing"]
    cells = {(line["variant"], line["column"]) for line in csv.DictReader((tmp_path / CSV).read_text().splitlines())}
    assert {variant for variant, column in cells if column == "zero_shot"} == {"two_stream", "no_token_loss"}


def test_differences_leave_out_columns_of_the_reference_alone():
    column = dataclasses.replace(toy.ZERO_SHOT, groups=("objectives",))
    results = Results(toy.VARIANTS, [toy.QUESTIONS, column], toy.values({"two_stream": [1.0]}), reference="two_stream")
    table = difference_table(toy.VARIANTS[:4], [toy.QUESTIONS, column], results, TWO)
    assert table[0] == ["", "VQA"]


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
    assert "* missing: single_stream, questions, zero_shot, region_loss, seed 0, 1, 2\n" in gaps
    assert "data_0, zero_shot" not in gaps
    assert gaps.rstrip().endswith("delete that file, and its evaluation runs again.")


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
