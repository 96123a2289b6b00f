"""Names for the persons of VCR, which its texts only number. None of them says who is a woman or a man."""

import csv
from pathlib import Path

from vilbert_jax.errors import InputError

NAMES = (
    "Alex", "Ari", "Ashton", "Aubrey", "Avery", "Bailey", "Blair", "Cameron", "Casey", "Charlie", "Dakota", "Devon",
    "Drew", "Eden", "Elliot", "Emerson", "Finley", "Frankie", "Harley", "Harper", "Hayden", "Jackie", "Jaime", "Jamie",
    "Jessie", "Jody", "Jordan", "Jules", "Kai", "Kendall", "Kerry", "Lane", "Lee", "Logan", "Morgan", "Noel", "Parker",
    "Pat", "Peyton", "Quinn", "Reese", "Remy", "Riley", "River", "Robin", "Rowan", "Ryan", "Sage", "Sam", "Sasha",
    "Sawyer", "Shannon", "Shea", "Sidney", "Skyler", "Spencer", "Taylor", "Terry", "Toby", "Tracy",
)  # fmt: skip


def read_names(path: Path) -> tuple[str, ...]:
    """Reads the column ``name`` of a CSV file, such as the ``unisex_names_table.csv`` of the released code.

    Raises:
        InputError: no such file, no such column, or no names.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = [row.get("name") or "" for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of names ({error}): give a CSV file") from error
    names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise InputError(f"{path} has no names: it must be a CSV file with a header and a column 'name'")
    return names
