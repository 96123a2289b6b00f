"""The one way in which benchmarks compare: each side is a process of its own, and they work in turns.

What else the machine does falls on both sides alike; threads, caches and memory of one do not disturb the other; each
side's peak memory is its own. A side says what it found out while preparing, then waits; for every line on its standard
input it does its work twice, times the second, and says so in a line of JSON. Twice, because steps of a run follow each
other: whoever has waited for others gets its memory and caches back first.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# JAX would take most of a GPU's memory at once, and the other sides need some.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
Work = Callable[[], Mapping[str, Any] | None]


class Side(NamedTuple):
    """One of those compared.

    Attributes:
        name: for tables, and what ``--side`` is given.
        needs: package without which it is left out.
    """

    name: str
    needs: str = "numpy"


class Timed(NamedTuple):
    """What a side did.

    Attributes:
        seconds: of each turn.
        facts: what it said before its first turn.
        results: what it said after each turn.
        peak_bytes: most resident memory of its process while it worked; preparation leaves what it leaves, but the
            peaks of compiling and of drawing parameters do not count where the system can forget them (Linux).
    """

    seconds: list[float]
    facts: dict[str, Any]
    results: list[dict[str, Any]]
    peak_bytes: int

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def take_turns(script: str, sides: Sequence[Side], arguments: Sequence[str], repeats: int) -> dict[str, Timed]:
    """Runs ``script --side=NAME ARGUMENTS`` for every side whose package is there, and lets them work in turns.

    Args:
        script: a file whose ``main`` calls ``serve`` when it is given a side.
        sides: at least one.
        arguments: for every side.
        repeats: turns of each.

    Raises:
        RuntimeError: a side ended early; what it printed stands before.
    """
    started: dict[str, subprocess.Popen[str]] = {}
    facts, answers = {}, {}
    with contextlib.ExitStack() as stack:
        for side in sides:
            if importlib.util.find_spec(side.needs) is None:
                print(f"{side.name}: left out, the package {side.needs} is not installed")
                continue
            command = [sys.executable, script, f"--side={side.name}", *arguments]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**SHARED, **os.environ}
            )
            stack.callback(_end, process)
            started[side.name], answers[side.name] = process, []
            facts[side.name] = _answer(side.name, process)  # one at a time: compiling takes all cores
        for _ in range(repeats):
            for name, process in started.items():
                _say(process, "\n")
                answers[name].append(_answer(name, process))
        peaks = {}
        for name, process in started.items():
            _say(process, "end\n")
            peaks[name] = _answer(name, process)["peak_bytes"]
    return {
        name: Timed([one.pop("seconds") for one in answers[name]], facts[name], answers[name], peaks[name])
        for name in started
    }


def serve(prepare: Callable[[], tuple[Mapping[str, Any], Work]]) -> None:
    """A side's part: prepares, then works for every line of standard input.

    Args:
        prepare: returns facts and the work; the work has been done once and compiled when it returns.
    """
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # whatever libraries print is no answer
        facts, work = prepare()
        forget_peak()
        print(json.dumps(facts), file=answers, flush=True)
        for line in sys.stdin:
            if line.strip():
                break
            work()
            start = time.perf_counter()
            result = work() or {}
            seconds = time.perf_counter() - start
            print(json.dumps({"seconds": seconds, **result}), file=answers, flush=True)
        print(json.dumps({"peak_bytes": peak_bytes()}), file=answers, flush=True)


def compare(
    script: str,
    parser: argparse.ArgumentParser,
    sides: Callable[[argparse.Namespace], Sequence[Side]],
    prepare: Mapping[str, Callable[[argparse.Namespace], tuple[Mapping[str, Any], Work]]],
    report: Callable[[Mapping[str, Timed], argparse.Namespace], str],
) -> None:
    """The ``main`` of a benchmark: with ``--side`` it is that side, without it lets them take turns and prints.

    Args:
        script: the benchmark's own file.
        parser: of its flags; must know ``--repeats``.
        sides: of the flags: who takes part, in the order of the turns.
        prepare: of each side, see ``serve``.
        report: what to print.
    """
    parser.add_argument("--side", choices=list(prepare), help="for the processes that this starts")
    asked = parser.parse_args()
    if asked.side:
        serve(lambda: prepare[asked.side](asked))
        return
    print(machine(), flush=True)
    print(report(take_turns(script, sides(asked), sys.argv[1:], asked.repeats), asked), flush=True)


def forget_peak() -> None:
    """Lets ``peak_bytes`` count from here on, on Linux; elsewhere it stays the whole life's."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Most resident memory of this process, since ``forget_peak`` where that works."""
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def machine() -> str:
    """Processor, cores and memory, as far as the system says."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores of {name}, {memory:.0f} GB"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}g} ({min(values):.{digits}g}-{max(values):.{digits}g})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, columns aligned."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def _say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended; reading its answer says so
        process.stdin.write(text)
        process.stdin.flush()


def _answer(name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} ended with code {process.wait()}; its last lines stand above")
    return json.loads(line)


def _end(process: subprocess.Popen[str]) -> None:
    """Lets a side end by itself, for a while."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
