"""Opens the files of a region store beside its records, and says which of them is damaged."""

import json
import os
import pathlib
import zipfile

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Classifier, Storage
from vilbert_jax.errors import InputError

IDS_FILE = "image_ids.npy"  # sorted image ids, fixed-width UTF-8 bytes
ROWS_FILE = "image_rows.npy"  # row of each id, counted over the splits in order of their names
CLASSIFIER_FILE = "classifier.npz"  # of a store whose class probabilities are rebuilt
METADATA_FILE = "metadata.json"  # TFDS's; the contract and the storage


class DamagedError(InputError):
    """A file of a data set is not what was built.

    Attributes:
        folder: of the data set.
        file: its name.
        problem: what is wrong, to be read after the name.
    """

    def __init__(self, folder: pathlib.Path, file: str, problem: str):
        super().__init__(
            f"{folder}: {file} {problem}. 'python tfds_builders/build.py verify {folder}' lists all that is damaged; "
            "delete the folder and build it again"
        )
        self.folder, self.file, self.problem = folder, file, problem

    def __reduce__(self):
        """Pickles, so that it arrives from worker processes as itself."""
        return DamagedError, (self.folder, self.file, self.problem)


def find_folder(path: str | os.PathLike[str], kind: str = "region store") -> pathlib.Path:
    """The folder of a TFDS data set: the one given, or the newest version inside it.

    Raises:
        InputError: it has no complete data set; ``kind`` says what was looked for.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():
        raise InputError(
            f"no {kind} at {path}: there is no such folder; build one with "
            "'python tfds_builders/build.py <data set> --config=<config> --data_dir=<folder>' and pass "
            "<folder>/<data set>/<config>"
        )
    if (path / "dataset_info.json").exists():
        return path
    versions = [child for child in path.iterdir() if (child / "dataset_info.json").exists()]
    versions = [child for child in versions if tfds.core.Version.is_valid(child.name)]
    if not versions:
        raise InputError(
            f"no {kind} at {path}: it has no dataset_info.json; pass the folder "
            f"<data_dir>/<data set>/<config> of a {kind} whose building has finished"
        )
    return max(versions, key=lambda child: tfds.core.Version(child.name))


def open_builder(folder: pathlib.Path) -> tfds.core.DatasetBuilder:
    """The TFDS data set in a folder.

    Raises:
        DamagedError: its description cannot be read.
    """
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS passes on whatever its parsers raise
        raise DamagedError(folder, "dataset_info.json or features.json", f"cannot be read ({error})") from error


def read_meaning(folder: pathlib.Path) -> tuple[FeatureContract, Storage]:
    """Contract and storage of the region store in a data-set folder.

    Raises:
        InputError: the data set is no region store.
        DamagedError: its metadata cannot be read.
    """
    file = folder / METADATA_FILE
    try:
        metadata = json.loads(file.read_bytes()) if file.exists() else {}
    except ValueError as error:  # no JSON, or no UTF-8
        raise DamagedError(folder, METADATA_FILE, f"is damaged ({error})") from error
    if not isinstance(metadata, dict) or not {"feature_contract", "storage"} <= metadata.keys():
        raise InputError(
            f"{folder} is a TFDS data set, but not a region store: its metadata has no feature contract; "
            "pass the folder of a region store, for example <data_dir>/scenes/regions_small"
        )
    try:
        return FeatureContract.from_json(metadata["feature_contract"]), Storage(**metadata["storage"])
    except (InputError, TypeError) as error:
        raise DamagedError(folder, METADATA_FILE, f"is damaged, or was written by another version ({error})") from error


def read_index(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Sorted image ids [N] fixed-width bytes and the row of each [N] int64, memory-mapped.

    Raises:
        DamagedError: one of the files is missing or damaged.
    """
    arrays = []
    for name in (IDS_FILE, ROWS_FILE):
        if not (folder / name).exists():
            raise DamagedError(folder, name, "is missing, and with it the index")
        try:
            arrays.append(np.load(folder / name, mmap_mode="r"))
        except (ValueError, EOFError, OSError) as error:
            raise DamagedError(folder, name, f"is damaged ({error})") from error
    ids, rows = arrays
    if ids.dtype.kind != "S" or ids.ndim != 1:
        raise DamagedError(folder, IDS_FILE, f"holds {ids.dtype} {list(ids.shape)}, not a list of ids")
    if rows.dtype != np.int64 or rows.shape != ids.shape:
        raise DamagedError(
            folder, ROWS_FILE, f"holds {rows.dtype} {list(rows.shape)}, not the int64 rows of {len(ids)} ids"
        )
    return ids, rows


def read_classifier(folder: pathlib.Path) -> Classifier:
    """The classifier of a store with ``rebuilt`` class probabilities.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    try:
        # Opened here, because np.load does not close a file that it cannot read.
        with (folder / CLASSIFIER_FILE).open("rb") as file, np.load(file) as arrays:
            return Classifier(arrays["weights"], arrays["bias"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedError(
            folder, CLASSIFIER_FILE, f"cannot be read, from which class probabilities are rebuilt ({error})"
        ) from error
