"""Times what a user waits for before anything happens: imports, and the first step of the tiny recipe.

python benchmarks/startup.py [--repeats=5] [--first_steps=2]

Each in a fresh process. A first step counts from the start of the process to the logged loss, with the data already
drawn, an empty workdir and no compilation cache.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from turns import machine, spread, table

from tfds_builders import embedded
from vilbert_jax.data.annotations import data_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
IMPORTS = {
    "import vilbert_jax": "import vilbert_jax",
    "... and the model": "import vilbert_jax as vj; vj.ViLBERTForPretraining",
    "... and every public name": "import vilbert_jax as vj; [getattr(vj, name) for name in vj.__all__]",
}
PATIENCE = 300  # seconds for one step


def import_seconds(code: str) -> float:
    """Of a process that does nothing else, the interpreter's own start included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=_environment())
    return time.perf_counter() - start


def first_step_seconds(recipe: str) -> float:
    """From the start of the process to the first logged loss; the run is then ended.

    Raises:
        RuntimeError: the run ended or said nothing for long.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config={recipe}", "--config.log_every=1", f"--workdir={folder}/run"]
        command, log = [sys.executable, "experiments/pretrain.py", *flags], pathlib.Path(folder, "run", "metrics.jsonl")
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not (log.is_file() and log.stat().st_size):
                if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                    raise RuntimeError(f"{' '.join(command)} logged no step in {time.perf_counter() - start:.0f} s")
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """This one without a compilation cache, and with the package on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Prints medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--first_steps", type=int, default=2)
    asked = parser.parse_args()
    print(machine(), flush=True)
    embedded.ensure(["scenes/captions_small", "scenes/regions_small"], data_folder(None))
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(asked.repeats):
        for name, code in IMPORTS.items():
            times[name].append(import_seconds(code))
    name = "configs/tiny.py: start to first step, cold"
    times[name] = [first_step_seconds("configs/tiny.py") for _ in range(asked.first_steps)]
    print(table(["", "s (range)"], [[name, spread(seconds)] for name, seconds in times.items() if seconds]))


if __name__ == "__main__":
    main()
