"""What ``make bench`` runs: the timings that need no accelerator, one after the other, in under ten minutes on 4 cores.

python benchmarks/cpu.py [--size=base|tiny] [--repeats=3]

Each is a script of its own with a table of its own; the commands are printed and can be run by themselves.
"""

import argparse
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent


def commands(size: str, repeats: int) -> list[list[str]]:
    """Scripts of this folder with their flags."""
    each = [f"--size={size}", f"--repeats={repeats}"]
    return [
        ["train_step.py", "--lengths=real", *each],
        ["train_step.py", "--lengths=full", *each],
        ["score_pairs.py", "--captions=16", "--images=32", *each],
        ["input_pipeline.py", "--pictures=512", "--seconds=18"],
        ["checkpoint_stall.py", *each],
        ["startup.py", f"--repeats={repeats}", "--first_steps=1"],
    ]


def main() -> None:
    """Runs all of them; one that fails does not keep the others from running, but fails the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    start, failed = time.perf_counter(), []
    for script, *flags in commands(asked.size, asked.repeats):
        print(f"\n$ python benchmarks/{script} {' '.join(flags)}", flush=True)
        if subprocess.run([sys.executable, str(FOLDER / script), *flags], cwd=ROOT).returncode:
            failed.append(script)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
