"""Opens the two TFDS data sets that an example comes from: annotations (rows of a split) and regions (by image id)."""

import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import tensorflow_datasets as tfds

from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError


@runtime_checkable
class Rows(Protocol):
    """Random access to the examples of one split: dicts of TFDS values, text as bytes."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Returns one example."""
        ...


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Returns ``data_dir``, or else the folder that TFDS uses: ``TFDS_DATA_DIR``, ``~/tensorflow_datasets``."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def open_annotations(name: str, split: str, *, data_dir: str | os.PathLike[str] | None, hint: str) -> Rows:
    """Opens one split of the newest version of an annotation data set.

    Args:
        name: ``name/config``, or ``name`` for a data set of one config.
        split: for example ``train``, or a slice of one, ``validation[:500]``.
        data_dir: TFDS folder, see ``data_folder``.
        hint: what to do where the data set is missing, closes the error message.

    Returns:
        The rows; they pickle, and are safe to read from several threads.

    Raises:
        InputError: no such data set, or no such split.
    """
    folder = data_folder(data_dir) / name
    complete = [info.parent for info in folder.glob("*/dataset_info.json")]
    versions = [path for path in complete if tfds.core.Version.is_valid(path.name)]
    if not versions:
        raise InputError(f"no data set {name!r} in {data_folder(data_dir)}.\n{hint}")
    builder = tfds.builder_from_directory(max(versions, key=lambda path: tfds.core.Version(path.name)))
    known = ", ".join(builder.info.splits)
    if split.partition("[")[0] not in builder.info.splits:
        raise InputError(f"data set {name!r} has no split {split!r}: it has {known}")
    try:
        rows = builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  (its decorators hide the signature)
    except ValueError as error:
        raise InputError(
            f"split {split!r} of data set {name!r} is no slice such as validation[:500]: {error}"
        ) from error
    return rows


def require_features(rows: Any, name: str, features: tuple[str, ...]) -> None:
    """Raises InputError if the opened data set ``name`` lacks one of the features."""
    for feature in features:
        if feature not in rows.dataset_info.features:
            raise InputError(
                f"data set {name!r} has no feature {feature!r}, only {', '.join(rows.dataset_info.features)}; name a "
                "data set made for this task"
            )


def metadata(rows: Any) -> dict[str, Any]:
    """What the builder noted about the data set that ``open_annotations`` opened; may be empty."""
    return dict(rows.dataset_info.metadata or {})


def open_regions(name: str, *, data_dir: str | os.PathLike[str] | None, hint: str) -> RegionStore:
    """Opens a region store: ``name/config`` in ``data_dir``, or a folder anywhere.

    Raises:
        InputError: no such store (``hint`` says what to do), or a folder that is none.
    """
    # An absolute name replaces data_dir, as paths do.
    for folder in (data_folder(data_dir) / name, Path(name).expanduser()):
        if folder.is_dir():
            return RegionStore(folder)
    raise InputError(f"no region store {name!r}, neither in {data_folder(data_dir)} nor as a folder.\n{hint}")
