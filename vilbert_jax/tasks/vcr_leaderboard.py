"""VCR's leaderboard file: one row a question of the test split, 21 columns (Zellers et al. 2019, rowanz/r2c)."""

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vilbert_jax.errors import InputError
from vilbert_jax.tasks.submission_checks import require_distribution

NUM_CHOICES = 4
PASSES = ("answer", *(f"rationale_conditioned_on_a{k}" for k in range(NUM_CHOICES)))
COLUMNS = ("annot_id", *(f"{name}_{k}" for name in PASSES for k in range(NUM_CHOICES)))


def has_all_passes(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every entry of ``VCR.submission`` has the answers and the reasons after each of them."""
    return bool(entries) and all(entry.keys() >= {*PASSES} for entry in entries)


def write_csv(entries: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Writes the file for the leaderboard.

    Args:
        entries: from ``VCR.submission`` on the unlabelled split, with ``answer_predictions`` or both passes.
        path: of the CSV file.

    Raises:
        InputError: an item is there twice, lacks a pass, or has something else than four probabilities for it.
    """
    seen = set()
    for number, entry in enumerate(entries):
        where = f"entry {number} ({entry.get('annot_id')!r})"
        if missing := [name for name in PASSES if name not in entry]:
            raise InputError(
                f"{where} has no {', '.join(missing)}: the leaderboard asks for the answers and for the reasons after "
                "each of the four. Evaluate Q->A on the test split, then QA->R on it with "
                "--config.answer_predictions=FILE, the predictions.json of the first; a split with labels asks for "
                "reasons after the right answer only."
            )
        for name in PASSES:
            require_distribution(where, entry, name, NUM_CHOICES)
        if entry["annot_id"] in seen:
            raise InputError(f"{where} is there twice; expected every item once: leave one of them out")
        seen.add(entry["annot_id"])
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in entries:
            writer.writerow([entry["annot_id"], *(share for name in PASSES for share in entry[name])])
    os.replace(part, path)
