"""Builds a region store of made-up records three times: killed half-way, run again, and undisturbed in another folder.

    python benchmarks/build_store.py                                              # 200,000 small records
    python benchmarks/build_store.py --records=6000 --features=2048 --classes=1601 # the paper's size

Prints time and peak memory of each, and whether the two finished stores have the same bytes: all files, names included
(no file of a store holds a time of day). The store run again and the undisturbed one are built at the same time.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.region_store_builder import RegionShard, RegionStoreBuilder
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError

SHARDS = 20
WIDTH, HEIGHT = 640, 480


@dataclasses.dataclass(frozen=True)
class Size:
    """What is built."""

    records: int
    regions: int
    features: int
    classes: int


def made_up(size: Size, numbers: range) -> Iterator[RegionRecord]:
    """Records whose every value depends on their number alone; features are half zeros, as ReLU leaves them."""
    pool = np.random.default_rng(0)
    features = np.maximum(pool.normal(size=(997, size.features)), 0).astype(np.float32)
    probabilities = pool.dirichlet(np.full(size.classes, 0.02), 997).astype(np.float32) if size.classes else None
    for number in numbers:
        corners = np.random.default_rng(number).uniform(0, [WIDTH, HEIGHT], (size.regions, 2, 2))
        boxes = np.sort(corners, axis=1).reshape(-1, 4).astype(np.float32)
        rows = (number + 31 * np.arange(size.regions)) % len(features)
        class_probs = None if probabilities is None else probabilities[rows]
        yield RegionRecord(f"{number:010d}", WIDTH, HEIGHT, boxes, features[rows], class_probs)


class MadeUp(RegionStoreBuilder, skip_registration=True):
    """The store."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent
    SIZE = Size(0, 0, 1, 0)

    def feature_contract(self) -> FeatureContract:
        """Of no detector."""
        return FeatureContract(
            **dict.fromkeys(("detector", "weights_hash", "layer", "colour_order", "resize_rule"), "none"),
            selection_rule="none",
            background="first" if self.SIZE.classes else "absent",
            feature_dim=self.SIZE.features,
            num_classes=self.SIZE.classes,
        )

    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[RegionShard]]:
        """One split."""
        del dl_manager
        ends = np.linspace(0, self.SIZE.records, SHARDS + 1).astype(int).tolist()
        parts = [range(*ends[k : k + 2]) for k in range(SHARDS)]
        return {"train": [functools.partial(made_up, self.SIZE, part) for part in parts]}


class Run:
    """A build in a process of its own."""

    def __init__(self, folder: pathlib.Path, options: Sequence[str]):
        self.start, self.folder = time.monotonic(), folder
        self.process = subprocess.Popen([sys.executable, __file__, *options, f"--build={folder}"], stdout=-3)

    def num_shards(self) -> int:
        """Shards that are complete so far."""
        return len(list(self.folder.glob("made_up/*/made_up-train.array_record-*")))

    def wait(self, name: str) -> int:
        """Waits for its end and prints what it took; returns its exit code, or minus the signal that ended it."""
        _, status, usage = os.wait4(self.process.pid, 0)
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - self.start
        print(f"| {name} | {seconds:.0f} | {usage.ru_maxrss / 1024:.0f} |", flush=True)
        return code


def contents(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """All files, by their names within the folder."""
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def compare(one: pathlib.Path, other: pathlib.Path) -> None:
    """Prints whether two stores are the same; exits with an error if not."""
    ours, theirs = contents(one), contents(other)
    unlike = sorted(ours.keys() ^ theirs.keys())
    unlike += [name for name in ours.keys() & theirs.keys() if ours[name].read_bytes() != theirs[name].read_bytes()]
    if unlike:
        sys.exit(f"the stores differ in {', '.join(unlike)}")
    size = sum(path.stat().st_size for path in ours.values())
    records = len(RegionStore(one / "made_up"))
    print(f"\nthe same {len(ours)} files, byte for byte: {records:,} records, {size / records:,.0f} bytes a record")


def measure(options: Sequence[str], root: pathlib.Path) -> None:
    """Kills a build half-way, builds again and elsewhere, and compares."""
    print("| build | s | peak memory, MiB |\n|---|---|---|", flush=True)
    killed = Run(root / "disturbed", options)
    while killed.num_shards() < SHARDS // 2 and killed.process.poll() is None:
        time.sleep(0.1)
    killed.process.kill()
    assert killed.wait(f"killed after {SHARDS // 2} of {SHARDS} shards") == -signal.SIGKILL
    try:
        RegionStore(root / "disturbed" / "made_up")
        sys.exit("a killed build opens")
    except InputError:
        pass
    runs = {"run again": Run(root / "disturbed", options), "undisturbed": Run(root / "undisturbed", options)}
    codes = [run.wait(name) for name, run in runs.items()]
    assert codes == [0, 0], codes
    compare(root / "disturbed", root / "undisturbed")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults: dict[str, Any] = {"records": 200_000, "regions": 36, "features": 64, "classes": 0}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--root", help="folder to build in (default: a temporary one); what is built is removed")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = {name: getattr(args, name) for name in defaults}
    if args.build:
        MadeUp.SIZE = Size(**size)
        MadeUp(data_dir=args.build, file_format="array_record").download_and_prepare()
        return
    root = pathlib.Path(tempfile.mkdtemp(dir=args.root))
    try:
        measure([f"--{name}={value}" for name, value in size.items()], root)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
