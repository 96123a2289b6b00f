"""The tables of a grid of experiments, in Markdown: scores beside the paper's, and differences between variants.

A table is a list of lines of cells, of which the first is the head.
"""

from collections.abc import Mapping, Sequence

from vilbert_jax.ablation import published
from vilbert_jax.ablation.estimates import (
    Estimate,
    Results,
    distinct,
    estimate,
    same_runs,
    without_pretraining,
)
from vilbert_jax.ablation.grid import Column, Variant

Table = list[list[str]]
Sizes = Mapping[str, tuple[int, int]]  # variant -> (number of parameters, floating-point operations of a forward pass)

PAPER, FLOPS = "*the paper*", "forward FLOPs"
_NOTHING = "–"  # there is nothing to evaluate


def markdown(table: Table) -> str:
    """The table with columns of even width: the first one to the left, numbers to the right."""
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in table]
    ruled = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], ruled, *aligned[1:]])


def score_table(variants: Sequence[Variant], columns: Sequence[Column], results: Results, sizes: Sizes) -> Table:
    """Means and intervals of some variants, under each the paper's figures where it has that model.

    Args:
        variants: rows.
        columns: scores.
        results: of the grid.
        sizes: of the models, shown where they differ.
    """
    known = {variant.name: sizes[variant.name] for variant in variants if variant.name in sizes}
    differ = len(set(known.values())) > 1
    before = ["", "seeds", *(["parameters", FLOPS] if differ else [])]
    table = [[*before, *(column.title for column in columns)]]
    for variant in variants:
        most = max((len(results.scores(variant, column)) for column in columns), default=0)
        line = [variant.title, str(most)]
        if differ:
            line += map(_short, known[variant.name]) if variant.name in known else ("", "")
        table.append([*line, *(_score(results, variant, column, most) for column in columns)])
        paper = [published.figure(variant.name, column) for column in columns]
        if any(paper):
            table.append([PAPER, *[""] * len(before[1:]), *("" if one is None else paper_score(one) for one in paper)])
    return table


def difference_table(
    variants: Sequence[Variant],
    columns: Sequence[Column],
    results: Results,
    reference: Variant,
) -> Table:
    """Scores less those of the reference, paired by seed; the paper's differences of the same cells below.

    Variants that share all their runs stand in it once. What the paper compares a row with is the reference as the
    row's own table has it: a smaller model may have as many co-attention layers as another of the paper's rows.

    Args:
        variants: all of the grid.
        columns: scores.
        results: of the grid.
        reference: what rows are compared with.
    """
    again = {variant.group: variant for variant in reversed(variants) if same_runs(variant, reference)}
    others = distinct([reference, *variants])[1:]
    rows = [(variant, reference, again.get(variant.group, reference)) for variant in others]
    return _differences(rows, columns, results)


def pretraining_table(variants: Sequence[Variant], columns: Sequence[Column], results: Results) -> Table:
    """What pre-training adds to each model that the grid also fine-tunes without it, paired by seed."""
    pairs = [(variant, without_pretraining(variant, variants)) for variant in distinct(variants)]
    return _differences([(with_, plain, plain) for with_, plain in pairs if plain], columns, results)


def paper_score(figure: published.Figure) -> str:
    """A figure of the paper with its mark: [c] confirmed, [r] recalled."""
    return f"{figure.value:.2f} {_mark(figure.confirmed)}"


def _differences(
    rows: Sequence[tuple[Variant, Variant, Variant]], columns: Sequence[Column], results: Results
) -> Table:
    """One line for each (variant, what it is compared with, the name that the paper's figures of that go by)."""
    columns = [column for column in columns if any(_comparable(results, row, column) for row in rows)]
    table = [["", *(column.title for column in columns)]]
    for row in rows:
        variant, base, paper_base = row
        counts = [len(results.differences(variant, base, column)) for column in columns]
        most = max(counts, default=0)
        table.append([variant.title, *(_difference(results, variant, base, column, most) for column in columns)])
        paper = [
            _paper_difference(variant, paper_base, column) if _comparable(results, row, column) else ""
            for column in columns
        ]
        if any(paper):
            table.append([PAPER, *paper])
    return table


def _comparable(results: Results, row: tuple[Variant, Variant, Variant], column: Column) -> bool:
    return all(results.has(variant, column) for variant in row[:2])


def _score(results: Results, variant: Variant, column: Column, most: int) -> str:
    found = estimate(results.scores(variant, column).values())
    return _without_value(results, variant, column) if found is None else _shown(found, f".{column.digits}f", most)


def _difference(results: Results, variant: Variant, base: Variant, column: Column, most: int) -> str:
    if not (results.has(variant, column) and results.has(base, column)):
        return ""
    found = estimate(results.differences(variant, base, column).values())
    if found is None:
        cells = [_without_value(results, one, column) for one in (variant, base) if not results.scores(one, column)]
        # Both have values, but of different seeds.
        return cells[0] if cells else "missing"
    text = _shown(found, f"+.{column.digits}f", most)
    return f"**{text}**" if found.sign else text


def _shown(found: Estimate, form: str, most: int) -> str:
    """The mean, its interval, and the number of seeds where others of the row have more."""
    interval = "" if found.half_width is None else f" ± {format(found.half_width, form.lstrip('+'))}"
    fewer = f" ({found.num_seeds} seed{'s'[: found.num_seeds > 1]})" if found.num_seeds < most else ""
    return f"{format(found.mean, form)}{interval}{fewer}"


def _without_value(results: Results, variant: Variant, column: Column) -> str:
    """Why a cell has no value at all."""
    status = {value.status for value in results.cell(variant, column)}
    return next((name for name in ("failed", "missing") if name in status), _NOTHING if status else "missing")


def _paper_difference(variant: Variant, base: Variant, column: Column) -> str:
    one, other = (published.figure(v.name, column) for v in (variant, base))
    if one is None or other is None or one == other:  # the paper's one model, which the grid trains in two ways
        return ""
    return f"{one.value - other.value:+.2f} {_mark(one.confirmed and other.confirmed)}"


def _mark(confirmed: bool) -> str:
    return "[c]" if confirmed else "[r]"


def _short(number: int) -> str:
    """Three digits and a unit: 239 M."""
    for unit, power in (("T", 12), ("G", 9), ("M", 6), ("k", 3)):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return str(number)
