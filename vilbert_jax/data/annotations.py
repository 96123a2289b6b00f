"""Opens the two TFDS data sets that an example comes from: annotations (rows of a split) and regions (by image id).

Beside the records of each split an annotation set has a file with the image id of every row, so that joining millions
of rows with a region store reads no record. Builders write it with ``write_image_ids``; where it is missing, as in data
sets from elsewhere, the records are read once instead.
"""

import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

ROW_IDS_FILE = "row_image_ids-{split}.npy"


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
        split: for example ``train``, a slice of one, ``validation[:500]``, or several, ``train+validation[:-3000]``.
        data_dir: TFDS folder, see ``data_folder``.
        hint: what to do where the data set is missing, closes the error message.

    Returns:
        The rows; they pickle, and are safe to read from several threads.

    Raises:
        InputError: no such data set, or no such split.
    """
    split = split.replace(" ", "")
    folder = data_folder(data_dir) / name
    complete = [info.parent for info in folder.glob("*/dataset_info.json")]
    versions = [path for path in complete if tfds.core.Version.is_valid(path.name)]
    if not versions:
        raise InputError(f"no data set {name!r} in {data_folder(data_dir)}.\n{hint}")
    builder = tfds.builder_from_directory(max(versions, key=lambda path: tfds.core.Version(path.name)))
    known = ", ".join(builder.info.splits)
    if unknown := [part for part in split.split("+") if part.partition("[")[0] not in builder.info.splits]:
        raise InputError(f"data set {name!r} has no split {unknown[0]!r}: it has {known}")
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"split {split!r} of data set {name!r} is no slice such as validation[:500]: {reason}"
        ) from error
    sizes = {known: info.num_examples for known, info in builder.info.splits.items()}
    if not any((sizes[part.splitname] if part.to is None else part.to) > (part.from_ or 0) for part in parts):
        raise InputError(f"split {split!r} of data set {name!r} is empty: choose a slice that has rows")
    return builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  (its decorators hide the signature)


def how_to_get(
    name: str, *, data_dir: str | os.PathLike[str] | None, build_hint: str | None = None, embedded_hint: str = ""
) -> str:
    """What to do where a data set or region store is missing: the ``hint`` of the functions that open one.

    Args:
        name: of the data set, ``name/config`` or ``name``.
        data_dir: TFDS folder, see ``data_folder``.
        build_hint: the command that builds this very data set; empty or None means one made up from its name.
        embedded_hint: the command that runs on embedded data instead; empty for none.
    """
    package, _, config = name.partition("/")
    command = f"python tfds_builders/build.py {package}{f' --config={config}' if config else ''}"
    if build_hint:
        lines = [f"Build it:\n  {build_hint}"]
    elif package == "region_features":
        lines = ["Import it from a feature dump (docs/data.md):"]
        lines.append(f"  {command} --source=PATH --contract=DETECTOR --data_dir={data_folder(data_dir)}")
        lines.append("or extract it from pictures (docs/detector.md):")
        extract = "python experiments/extract_features.py --weights=DETECTOR --images=PICTURES"
        lines.append(f"  {extract} --output={data_folder(data_dir) / name}")
    else:
        lines = [f"Build it:\n  {command} --data_dir={data_folder(data_dir)}"]
    if embedded_hint:
        lines.append(f"or run on the embedded data, which needs no download:\n  {embedded_hint}")
    return "\n".join(lines)


def require_features(rows: Any, name: str, features: tuple[str, ...]) -> None:
    """Raises InputError if the opened data set ``name`` lacks one of the features."""
    for feature in features:
        if feature not in rows.dataset_info.features:
            raise InputError(
                f"data set {name!r} has no feature {feature!r}, only {', '.join(rows.dataset_info.features)}; name a "
                "data set made for this task"
            )


def write_image_ids(folder: str | os.PathLike[str], split: str, image_ids: np.ndarray) -> None:
    """Writes the image id of every row of a split into the folder of an annotation set that is being built.

    Args:
        folder: where TFDS is writing the data set (before it renames the folder).
        split: the split.
        image_ids: in the order of the split's records; UTF-8 as fixed-width bytes, or uint32 that stands for its
            decimal text, in half the space.
    """
    assert image_ids.dtype.kind == "S" or image_ids.dtype == np.uint32, image_ids.dtype
    np.save(Path(folder) / ROW_IDS_FILE.format(split=split), image_ids)


def row_image_ids(rows: Rows) -> np.ndarray:
    """The image id of every row: from the file beside the records, or else by reading them.

    Returns:
        [len(rows)] as ``write_image_ids`` takes them; a memory map where the file is there.

    Raises:
        InputError: the file does not belong to the records.
    """
    stored = _stored_image_ids(rows)
    if stored is not None:
        return stored
    ids = (rows[k]["image_id"] for k in range(len(rows)))
    return np.array([value.encode() if isinstance(value, str) else value for value in ids], np.bytes_)


def id_bytes(image_ids: np.ndarray) -> np.ndarray:
    """Image ids as fixed-width bytes, whichever way ``row_image_ids`` gave them."""
    return image_ids.astype(np.bytes_) if image_ids.dtype == np.uint32 else np.asarray(image_ids)


def _stored_image_ids(rows: Any) -> np.ndarray | None:
    info, split = (getattr(rows, name, None) for name in ("dataset_info", "split"))
    if info is None or split is None:  # rows that no data set on disk stands behind, or some rows of a split
        return None
    ids = []
    for part in tfds.core.ReadInstruction.from_spec(split).to_absolute(info.splits):
        file = Path(info.data_dir) / ROW_IDS_FILE.format(split=part.splitname)
        if not file.exists():
            return None
        try:
            of_split = np.load(file, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise InputError(f"{file} is damaged ({error}): delete {info.data_dir} and build it again") from error
        count = info.splits[part.splitname].num_examples
        if len(of_split) != count:
            raise InputError(
                f"{file} names the images of {len(of_split)} rows, but split {part.splitname!r} has {count}: delete "
                f"{info.data_dir} and build it again"
            )
        ids.append(of_split[part.from_ : part.to])
    return ids[0] if len(ids) == 1 else np.concatenate([id_bytes(part) for part in ids])


def metadata(rows: Any) -> dict[str, Any]:
    """What the builder noted about the data set that ``open_annotations`` opened; may be empty."""
    info = getattr(rows, "dataset_info", None)
    return dict((info and info.metadata) or {})


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
