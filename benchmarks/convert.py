"""Times a released checkpoint of base size on its way here and back, and measures the memory that takes.

python benchmarks/convert.py [--format=bin|safetensors]

The file is made first, with random numbers under the released names; each conversion is a process of its own, as a user
starts it. Afterwards every tensor that the model computes with must have come back byte by byte. ``bin`` needs torch.
"""

import argparse
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, abstract_params, make_model
from vilbert_jax.checkpoints.released import released_table, released_tensors
from vilbert_jax.checkpoints.tensor_files import open_tensors, write_safetensors, write_torch

COMMAND = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "convert_checkpoint.py"


def main() -> None:
    """Makes the file, converts it twice, compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=("bin", "safetensors"), default="bin")
    ending = parser.parse_args().format
    config = vj.ViLBERTConfig.base()
    with tempfile.TemporaryDirectory() as folder:
        source, ours, back = (pathlib.Path(folder, name) for name in (f"from.{ending}", "ours", f"back.{ending}"))
        rng = np.random.default_rng(0)
        abstract = abstract_params(make_model(config, PRETRAINING_HEADS))
        params = {path: rng.standard_normal(a.shape, np.float32) for path, a in abstract.items()}
        write = write_torch if ending == "bin" else write_safetensors
        write(source, released_tensors(params, config, PRETRAINING_HEADS))
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        print(f"{machine}; the file has {source.stat().st_size / 1e9:.2f} GB")
        total = 0.0
        for begin, end in ((source, ours), (ours, back)):
            seconds, gigabytes = run(begin, end)
            total += seconds
            print(f"{begin.name:20} -> {end.name:20}{seconds:7.1f} s   peak {gigabytes:.2f} GB")
        before, after = open_tensors(source).tensors, open_tensors(back).tensors
        assert before.keys() == after.keys()
        live = [e.source for e in released_table(config).entries]
        assert all(before[name].read(()).tobytes() == after[name].read(()).tobytes() for name in live)
        print(f"there and back {total:.1f} s; {len(live)} live tensors identical, {len(after)} names")


def run(source: pathlib.Path, target: pathlib.Path) -> tuple[float, float]:
    """Converts in a new process; returns its seconds and its largest resident set in GB."""
    command = [sys.executable, str(COMMAND), f"--input={source}", f"--output={target}", "--vocab="]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the conversion of {source} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
