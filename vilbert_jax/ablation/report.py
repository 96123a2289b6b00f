"""What a grid of experiments leaves behind: ``ablation.md`` with its plots, and ``ablation.csv`` with every value.

Both hold nothing but what the values say, in the order of the grid: the same values give the same bytes, whatever was
killed and started again on the way. The times of the last section alone may differ.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vilbert_jax.ablation import published, tables
from vilbert_jax.ablation.estimates import Results, same_runs
from vilbert_jax.ablation.grid import Column, Value, Variant, group_columns
from vilbert_jax.ablation.plots import DATA, DEPTH, DIFFERENCES, MODELS, draw_plots
from vilbert_jax.errors import InputError

MARKDOWN, CSV = "ablation.md", "ablation.csv"
_HEADINGS = {MODELS: "Models", DEPTH: "Depth", DATA: "Share of the pre-training data"}
_CSV_FIELDS = ("group", "variant", "column", "metric", "split", "seed", "status", "value")


class Facts(NamedTuple):
    """What the values were measured with.

    Attributes:
        command: that makes all of it again.
        machines: processor or accelerator, cores, versions of each that runs were made on.
        core_seconds: seconds times cores of all runs, those that were killed or failed included.
        gpu_seconds: the same of GPUs.
        wall_seconds: from the first start to the end, without the time in which nothing ran.
        sizes: variant -> (number of parameters, floating-point operations of a forward pass for one pair).
        reference: name of the variant that the others are compared with.
    """

    command: str
    machines: Sequence[str]
    core_seconds: float
    gpu_seconds: float
    wall_seconds: float
    sizes: Mapping[str, tuple[int, int]]
    reference: str


def write_results(
    folder: Path, variants: Sequence[Variant], columns: Sequence[Column], values: Sequence[Value], facts: Facts
) -> None:
    """Writes tables, plots and values; of a half-done grid too, whose cells then say what is missing.

    Args:
        folder: where they go; created. Plots of earlier values that cannot be drawn any more are removed.
        variants: of the grid.
        columns: of the grid.
        values: of its cells, in any order; those that were never reached may be left out.
        facts: for the last section, the sizes and the differences.

    Raises:
        InputError: a value belongs to no cell, or the reference to no variant.
    """
    reference = next((variant for variant in variants if variant.name == facts.reference), None)
    if reference is None:
        names = [variant.name for variant in variants]
        raise InputError(f"the reference {facts.reference!r} is no variant of the grid; it has {names}.")
    results = Results(variants, columns, values, reference=reference.name)
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw_plots(folder, variants, columns, results, reference)
    _write(folder / CSV, csv_text(variants, columns, results))
    _write(folder / MARKDOWN, markdown_text(variants, columns, results, facts, reference, plots))


def csv_text(variants: Sequence[Variant], columns: Sequence[Column], results: Results) -> str:
    """One line for each variant, column and seed, with or without a value; numbers as exactly as they are known."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_FIELDS)
    for variant in variants:
        for column in columns:
            for cell in results.cell(variant, column) if results.has(variant, column) else ():
                value = "" if cell.value is None else repr(float(cell.value))
                known = (variant.group, variant.name, column.name, column.metric, column.split)
                writer.writerow([*known, cell.seed, cell.status, value])
    return file.getvalue()


def markdown_text(
    variants: Sequence[Variant],
    columns: Sequence[Column],
    results: Results,
    facts: Facts,
    reference: Variant,
    plots: Mapping[str, str],
) -> str:
    """The page.

    Args:
        variants: of the grid.
        columns: of the grid.
        results: its values.
        facts: what they were measured with.
        reference: one of the variants.
        plots: from ``draw_plots``: group -> file beside the page.
    """
    parts = ["# Ablation", _introduction(variants, columns, results, reference)]
    for group in dict.fromkeys(variant.group for variant in variants):
        members = [variant for variant in variants if variant.group == group]
        if not any(same_runs(variant, reference) for variant in members):
            members = [reference, *members]
        heading = _HEADINGS.get(group) or f"{group[:1].upper()}{group[1:]}" or "Variants"
        table = tables.score_table(members, group_columns(group, columns), results, facts.sizes)
        sizes = [_SIZES] if tables.FLOPS in table[0] else []
        parts += [f"## {heading}", *sizes, tables.markdown(table), *_picture(heading, plots.get(group))]
    pretraining = tables.pretraining_table(variants, columns, results)
    if len(pretraining) > 1:
        parts += ["## Does pre-training help?", _PRETRAINING, tables.markdown(pretraining)]
    differences = tables.difference_table(variants, columns, results, reference)
    if len(differences) > 1:
        count = _num_intervals(differences)
        note = _DIFFERENCES + (_CHANCE.format(count=count, chance=round(count / 20)) if count else "")
        parts += [f"## Does it help? Differences to: {reference.title}", note, tables.markdown(differences)]
        parts += _picture("Differences", plots.get(DIFFERENCES))
    parts += ["## Failed or missing", _gaps(variants, columns, results), "## What it took", _cost(facts)]
    return "\n\n".join(parts) + "\n"


_SIZES = (
    "Forward FLOPs are those of a pair as long as in pre-training. Models that cost as many operations do so at these "
    "lengths; at those of the tasks they differ."
)
_PRETRAINING = (
    "Score with pre-training less score without, of the same model, paired by seed. Bold: the 95 % interval leaves out "
    "zero."
)
_DIFFERENCES = "Score less that of the same seed of the reference."
_CHANCE = (
    " Bold: the 95 % interval leaves out zero; if nothing differed, about {chance} of these {count} would be bold."
)


_FAILED = (
    "`log.txt` in the folder of a run says why it failed. A score that is no finite number, or a `metrics.json` that "
    "cannot be read, counts as failed too; delete that file, and its evaluation runs again."
)


def _introduction(variants: Sequence[Variant], columns: Sequence[Column], results: Results, reference: Variant) -> str:
    count, numbers = len(results.seeds), ", ".join(map(str, results.seeds))
    text = (
        f"{count} seed{'s'[: count != 1]} ({numbers}). Every cell is the mean over seeds ± half "
        "the width of its 95 % interval (Student's t); one seed has no interval. Intervals cover the seeds of training "
        "alone: the test set is the same for all, and a share of the data is always its first rows. Scores are "
        f"percent, losses are nats. Splits: {_splits(columns)}. Reference: {reference.title}."
    )
    with_figures = [c for c in columns if any(published.figure(v.name, c) for v in variants if results.has(v, c))]
    if not with_figures:
        return text
    named = "; ".join(f"{column.title}: {published.measure_of(column)}" for column in with_figures)
    text += (
        "\n\nUnder a model stand the figures of the ViLBERT paper (NeurIPS 2019): [c] confirmed in independent public "
        f"text, [r] recalled, to be looked up before anything rests on them. {named}."
    )
    if not all(map(published.comparable, with_figures)):
        text += (
            " The paper's are of real data, these are of the embedded data set: other tasks of the same kind, so that "
            "only the directions of differences can be compared."
        )
    return text


def _splits(columns: Sequence[Column]) -> str:
    """What is scored on what."""
    titles: dict[str, list[str]] = {}
    for column in columns:
        titles.setdefault(column.split, []).append(column.title)
    return "; ".join(f"`{split}` for {', '.join(scored)}" for split, scored in titles.items())


def _num_intervals(table: tables.Table) -> int:
    return sum("±" in cell for line in table[1:] if line[0] != tables.PAPER for cell in line[1:])


def _picture(title: str, file: str | None) -> list[str]:
    return [] if file is None else [f"![{title}]({file})"]


def _gaps(variants: Sequence[Variant], columns: Sequence[Column], results: Results) -> str:
    """Every cell without a value that should have one; a line for the columns of a variant that lack the same seeds."""
    lacking: dict[tuple[str, str, str], list[str]] = {}
    num_done = 0
    for variant in variants:
        for column in columns:
            cell = results.cell(variant, column) if results.has(variant, column) else ()
            num_done += sum(value.status == "done" for value in cell)
            for status in ("failed", "missing"):
                seeds = ", ".join(str(value.seed) for value in cell if value.status == status)
                if seeds:
                    lacking.setdefault((status, variant.name, seeds), []).append(column.name)
    lines = [
        f"* {status}: {name}, {', '.join(names)}, seed {seeds}" for (status, name, seeds), names in lacking.items()
    ]
    if not lines:
        return f"None of {num_done:,}."
    if any(status == "failed" for status, *_ in lacking):
        lines += ["", _FAILED]
    return "\n".join([f"Values that are there: {num_done:,}. These are not:\n", *lines])


def _cost(facts: Facts) -> str:
    lines = [
        f"    {facts.command}",
        "",
        *(f"* machine: {machine}" for machine in facts.machines or ["not recorded"]),
        f"* wall time: {_hours(facts.wall_seconds)}",
        f"* processor time, cores held by runs: {_hours(facts.core_seconds)}",
    ]
    if facts.gpu_seconds:
        lines.append(f"* GPU time, GPUs held by runs: {_hours(facts.gpu_seconds)}")
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    os.replace(part, path)
