"""Looks for damage in a data set on disk: a region store or a set of annotations.

    python tfds_builders/build.py verify PATH [--quick]

PATH is the folder of a data set, <data_dir>/<data set>/<config>. Every shard is read whole, in several processes:
checksums, number of records, every record (schema, finite values, ranges), the index in both directions, ids that occur
twice. What is bad is named by file and record, and the others are read all the same. Exit code 0: nothing found, 1:
something is damaged, 2: there is no data set.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from absl import logging

from tfds_builders import verify_index
from tfds_builders.checksums import CHECKSUMS_FILE, FileSum, read_checksums
from tfds_builders.scenes.parallel import available_processes
from tfds_builders.verify_shard import Shard, ShardReport, file_problems, verify_shard
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Storage
from vilbert_jax.data.region_files import (
    IDS_FILE,
    METADATA_FILE,
    ROWS_FILE,
    DamagedError,
    find_folder,
    open_builder,
    read_meaning,
)
from vilbert_jax.errors import InputError

_WORTH_PROCESSES = 64 << 20  # bytes; below that they take longer to start than to read
_SECONDS_A_LINE = 10  # between two lines of progress


@dataclasses.dataclass
class Findings:
    """What is wrong with a data set; prints every problem when it is found."""

    problems: int = 0
    bad_files: set[str] = dataclasses.field(default_factory=set)

    def add(self, file: str, problem: str) -> None:
        """One problem of one file."""
        self.problems += 1
        self.bad_files.add(file)
        print(f"bad: {file}: {problem}", flush=True)


@dataclasses.dataclass
class StoredSet:
    """A data set on disk, as far as its description can be read."""

    folder: pathlib.Path
    shards: list[Shard]
    sums: dict[str, FileSum] | None
    split_bytes: dict[str, int]  # of all shards of a split, according to dataset_info.json
    is_store: bool


def main(argv: Sequence[str]) -> int:
    """Checks the data set that the command line (without program and command) names; returns the exit code.

    Raises:
        InputError: there is no data set at that path.
    """
    parser = argparse.ArgumentParser("build.py verify", description="Looks for damage in a data set.")
    parser.add_argument("path", help="folder of the data set: DATA_DIR/DATA_SET/CONFIG")
    parser.add_argument("--quick", action="store_true", help="sizes, counts and index only; seconds instead of minutes")
    args = parser.parse_args(argv)
    findings = Findings()
    data = _open(find_folder(args.path, "data set"), findings)
    total = sum(shard.num_records for shard in data.shards)
    kind = "region store" if data.is_store else "annotation set"
    print(f"{data.folder}: {kind}, {total:,} records in {len(data.shards)} shards")
    if data.sums is None:
        print(f"no {CHECKSUMS_FILE}: the data set was built before there were any; contents alone are checked")
    _check_files(data, findings, quick=args.quick)
    read = {}
    for report in _read_all(data.shards, quick=args.quick):
        read[report.shard.file] = report
        for problem in report.problems:
            findings.add(report.shard.file.name, problem)
    reports = [read[shard.file] for shard in data.shards]
    if data.is_store:
        problems = verify_index.store_problems(data.folder, reports)
    else:
        problems = verify_index.annotation_problems(data.folder, reports)
    for file, problem in problems:
        findings.add(file, problem)
    return _summarise(findings, reports, total, quick=args.quick)


def _open(folder: pathlib.Path, findings: Findings) -> StoredSet:
    """Reads what describes the data set; what cannot be read is a finding, and its part is left out."""
    sums: dict[str, FileSum] | None = {}
    try:
        sums = read_checksums(folder)
    except InputError as error:
        findings.add(CHECKSUMS_FILE, str(error))
    is_store = (folder / IDS_FILE).exists() or (folder / ROWS_FILE).exists()
    contract, storage = None, None
    try:
        contract, storage = read_meaning(folder)
        is_store = True
    except DamagedError as error:
        findings.add(error.file, error.problem)
    except InputError:
        if is_store:
            findings.add(METADATA_FILE, "has no feature contract, but there is the index of a region store")
    data = StoredSet(folder, [], sums, {}, is_store)
    try:
        splits = open_builder(folder).info.splits
    except DamagedError as error:
        findings.add(error.file, f"{error.problem}; records cannot be found without it")
        return data
    for name in sorted(splits):
        data.split_bytes[name] = splits[name].num_bytes
        data.shards += _shards(folder, splits[name], sums or {}, contract, storage)
    return data


def _shards(
    folder: pathlib.Path,
    split: Any,
    sums: dict[str, FileSum],
    contract: FeatureContract | None,
    storage: Storage | None,
) -> Iterator[Shard]:
    for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
        name = pathlib.Path(path).name
        yield Shard(folder / name, split.name, count, sums.get(name), contract, storage)


def _check_files(data: StoredSet, findings: Findings, *, quick: bool) -> None:
    """The files that are no shards; without checksums the size of every split, which TFDS notes."""
    shards = {shard.file.name for shard in data.shards}
    for name, known in (data.sums or {}).items():
        if name not in shards:
            for problem in file_problems(data.folder / name, known, quick=quick):
                findings.add(name, problem)
    if data.sums is not None:  # which know the size of every single file
        return
    for split, expected in data.split_bytes.items():
        files = [shard.file for shard in data.shards if shard.split == split]
        found = sum(file.stat().st_size for file in files if file.exists())
        if found != expected:
            findings.add(
                f"shards of split {split!r}", f"have {found:,} bytes, {expected:,} according to dataset_info.json"
            )


def _read_all(shards: Sequence[Shard], *, quick: bool) -> Iterator[ShardReport]:
    """Reports in the order in which they are ready."""
    sizes = {shard.file: shard.file.stat().st_size if shard.file.exists() else 0 for shard in shards}
    progress = _Progress(sum(sizes.values()), len(shards))
    processes = min(available_processes(), len(shards))
    if processes <= 1 or quick or sum(sizes.values()) < _WORTH_PROCESSES:
        for shard in shards:
            yield verify_shard(shard, quick=quick)
            progress.done(sizes[shard.file])
        return
    # Spawned, not forked: the caller may have threads.
    context = multiprocessing.get_context("spawn")
    quiet = {"initializer": logging.set_verbosity, "initargs": (logging.ERROR,)}  # as in this process
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context, **quiet) as pool:
        running = {pool.submit(verify_shard, shard, quick=quick): shard for shard in shards}
        for future in concurrent.futures.as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool as error:
                raise InputError(
                    "a process that reads shards was killed (out of memory?); nothing is known of the data set: try "
                    "again with more memory"
                ) from error
            progress.done(sizes[running[future].file])


class _Progress:
    """Says on stderr, now and then, how much is read and how long the rest will take."""

    def __init__(self, total: int, count: int):
        self._total, self._count = total, count
        self._read, self._files = 0, 0
        self._start = self._said = time.monotonic()

    def done(self, num_bytes: int) -> None:
        self._read += num_bytes
        self._files += 1
        now = time.monotonic()
        if now - self._said < _SECONDS_A_LINE or not self._read:
            return
        self._said = now
        share = self._read / self._total
        left = (now - self._start) * (1 / share - 1) / 60
        print(
            f"{self._files} of {self._count} shards, {share:.0%}, about {left:.1f} minutes left",
            file=sys.stderr,
            flush=True,
        )


def _summarise(findings: Findings, reports: Sequence[ShardReport], total: int, *, quick: bool) -> int:
    num_read = sum(report.num_read for report in reports)
    if not findings.problems:
        read = f"the first and last record of each shard ({num_read:,})" if quick else f"all {num_read:,} records"
        print(f"good: {read} read, nothing wrong" + ("; without --quick all are read" if quick else ""))
        return 0
    num_bad = sum(report.num_bad for report in reports)
    print(
        f"problems: {findings.problems}, bad files: {len(findings.bad_files)}; "
        f"{num_bad:,} of {total:,} records cannot be used. Delete the folder and build it again, or copy it again from "
        "where it came."
    )
    return 1
