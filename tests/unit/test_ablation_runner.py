"""Runs that need each other, side by side: order, failures, what is kept, who gets which cores and accelerators."""

import json
import os
import sys

import pytest

from vilbert_jax.ablation import leash, machine
from vilbert_jax.ablation.attempts import Attempt, Attempts
from vilbert_jax.ablation.machine import describe_machine
from vilbert_jax.ablation.records import Records
from vilbert_jax.ablation.runner import Slot, failures, make_slots, run_all
from vilbert_jax.ablation.runs import Run
from vilbert_jax.errors import InputError

WRITE = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.write_text(p.read_text() + '.' if p.exists() else '.')"
NOBODY = [Slot((), None)]


def a_run(folder, name, code=WRITE, needs=(), kind=()):
    """A run that is done when ``<name>/done`` is there."""
    place = folder / name
    return Run(name, ("-c", code, str(place / "done")), place, place / "done", needs, kind)


def run(folder, *runs, slots=NOBODY * 2):
    records = Records(folder, {run.name: run for run in runs})
    records.require_unchanged(runs)
    with records.locked():
        return run_all(runs, slots=slots, title="", folder=folder, records=records)


def attempts(folder):
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def printed(folder, name):
    return (folder / name / "log.txt").read_text().splitlines()


def test_a_run_starts_when_what_it_needs_is_done(tmp_path):
    reads = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); assert (p.parents[1] / '{}' / 'done').exists(); p.touch()"
    )
    last = a_run(tmp_path, "last", reads.format("middle"), ("middle",))
    middle = a_run(tmp_path, "middle", reads.format("first"), ("first",))
    results = run(tmp_path, last, middle, a_run(tmp_path, "first"))
    assert results == {"first": "done", "middle": "done", "last": "done"}
    assert [a["run"] for a in attempts(tmp_path) if a["status"]] == ["first", "middle", "last"]


def test_of_those_that_could_start_the_first_does(tmp_path):
    runs = [a_run(tmp_path, name) for name in ("b", "a", "c")]
    run(tmp_path, *runs, slots=NOBODY)
    assert [a["run"] for a in attempts(tmp_path) if a["status"]] == ["b", "a", "c"]


def test_what_is_done_is_not_done_again(tmp_path):
    runs = [a_run(tmp_path, name) for name in ("a", "b")]
    run(tmp_path, *runs[:1])
    assert run(tmp_path, *runs) == {"a": "done", "b": "done"}
    assert (tmp_path / "a" / "done").read_text() == "."
    assert (tmp_path / "b" / "done").read_text() == "."


def test_what_is_done_but_lost_its_result_is_done_again(tmp_path):
    run(tmp_path, a_run(tmp_path, "a"))
    (tmp_path / "a" / "done").unlink()
    run(tmp_path, a_run(tmp_path, "a"))
    assert (tmp_path / "a" / "done").exists()


def test_commands_and_what_they_print_are_kept(tmp_path):
    code = "import sys; print('hello'); print('world', file=sys.stderr, flush=True); open(sys.argv[1], 'w')"
    run(tmp_path, a_run(tmp_path, "a", code))
    command, *said = printed(tmp_path, "a")
    assert command.startswith("$ python -c ")
    assert sorted(said) == ["hello", "world"]


def test_a_failure_is_named_and_only_what_needs_it_is_not_run(tmp_path):
    runs = [
        a_run(tmp_path, "bad", "raise SystemExit('broken')"),
        a_run(tmp_path, "after", needs=("bad",)),
        a_run(tmp_path, "long_after", needs=("after", "fine")),
        a_run(tmp_path, "fine"),
        a_run(tmp_path, "nothing_left", "pass"),
    ]
    results = run(tmp_path, *runs)
    assert results == {
        "bad": "failed", "after": "skipped", "long_after": "skipped", "fine": "done", "nothing_left": "failed",
    }  # fmt: skip
    message = "\n".join(failures(runs, results))
    assert message.startswith("2 of 5 runs failed, and 2 that need them were not run:\n")
    assert f"  bad: see {tmp_path / 'bad' / 'log.txt'} (broken)\n" in message
    assert f"  nothing_left: see {tmp_path / 'nothing_left' / 'log.txt'} ($ python -c pass" in message
    assert "broken" in printed(tmp_path, "bad")[-1]
    mended = [a_run(tmp_path, "bad"), *runs[1:]]
    assert run(tmp_path, *mended)["long_after"] == "done"
    assert (tmp_path / "fine" / "done").read_text() == "."
    assert not failures(mended[:4], dict.fromkeys(results, "done"))


def test_a_run_that_leaves_its_file_but_fails_is_not_done(tmp_path):
    fails = a_run(tmp_path, "a", WRITE + "; sys.exit(1)")
    assert run(tmp_path, fails, a_run(tmp_path, "b", needs=("a",))) == {"a": "failed", "b": "skipped"}
    assert (tmp_path / "a" / "done").is_file()
    assert run(tmp_path, fails) == {"a": "failed"}
    assert (tmp_path / "a" / "done").read_text() == ".."  # it was tried again
    assert run(tmp_path, a_run(tmp_path, "a"))["a"] == "done"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("error: wrong\nusage: this\nor that", "error: wrong"),
        ("error: an old one\n$ python again\nnow another", "now another"),
        ("step 1\nstopped: the loss is nan\nbye", "stopped: the loss is nan"),
        ("10 %\r20 %\r\n\n", "20 %"),
        ("", "it said nothing"),
    ],
)
def test_the_error_is_what_is_shown_of_a_log(tmp_path, said, shown):
    one = a_run(tmp_path, "a")
    one.folder.mkdir()
    one.log.write_text(said)
    assert failures([one], {"a": "failed"})[1] == f"  a: see {one.log} ({shown})"


def test_the_time_of_every_attempt_is_kept(tmp_path):
    runs = {name: a_run(tmp_path, name, kind=(name[0], name)) for name in ("x1", "x2", "y1")}
    tmp_path.joinpath("runs.jsonl").write_text(
        "".join(
            json.dumps(attempt._asdict()) + "\n"
            for attempt in (
                Attempt("x1", 100.0, 2), Attempt("x1", 100.0, 2, 5.0, "killed"), Attempt("x1", 200.0, 2, 7.0, "done"),
                Attempt("x2", 203.0, 1, 10.0, "done", 2, "small"), Attempt("y1", 300.0, 4, 2.0, "failed", 0, "big"),
                Attempt("y1", 400.0, 1, None, "", 1, "small"),
            )
        )
        + '{"run": "torn'
    )  # fmt: skip
    (tmp_path / "y1").mkdir()
    (tmp_path / "y1" / "log.txt").touch()
    os.utime(tmp_path / "y1" / "log.txt", (403.0, 403.0))
    records = Records(tmp_path, runs)
    assert records.attempts.core_seconds() == 5 * 2 + 7 * 2 + 10 + 2 * 4
    with records.locked():  # closes what a kill left open, with its last sign of life
        assert records.attempts.core_seconds() == 5 * 2 + 7 * 2 + 10 + 2 * 4 + 3
    assert records.attempts.gpu_seconds() == 2 * 10 + 3
    assert records.attempts.machines() == ["small", "big"]  # the first ones did not say
    assert records.attempts.wall_seconds() == 5 + 13 + 2 + 3  # two were side by side
    assert records.seconds_by_kind() == {(): 11.0, ("x",): 11.0, ("x", "x1"): 12.0, ("x", "x2"): 10.0}
    again = Records(tmp_path, runs)
    assert again.attempts.core_seconds() == records.attempts.core_seconds()
    with again.locked():
        assert len(attempts(tmp_path)) == 7  # every line can be read, and nothing is closed twice


@pytest.mark.parametrize("line", ["[]", '{"run": 1, "started": 1.0, "cores": 1}', '{"run": "a"}', "{", '{"old": 1}'])
def test_damaged_times_are_named(tmp_path, line):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match="runs.jsonl is damaged .*move it away; only times are in it"):
        Attempts(tmp_path)


SHOWS = "import os, sys; open(sys.argv[1], 'w').write(repr((os.sched_getaffinity(0), os.environ.get('{}'))))"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound to cores here")
def test_each_slot_has_cores_and_gpus_to_itself(tmp_path):
    code = "import time; time.sleep(0.4);" + SHOWS.format("CUDA_VISIBLE_DEVICES")
    run(tmp_path, *(a_run(tmp_path, name, code) for name in "ab"), slots=make_slots(2, "4,7", num_runs=9))
    found = [eval((tmp_path / name / "done").read_text()) for name in "ab"]
    cores = os.sched_getaffinity(0)
    assert found[0][0] | found[1][0] == cores
    assert not found[0][0] & found[1][0] or len(cores) == 1
    assert {gpu for _, gpu in found} == {"4", "7"}
    assert {a["cores"] for a in attempts(tmp_path)} <= {len(cores) // 2, -(-len(cores) // 2)}
    assert {a["gpus"] for a in attempts(tmp_path)} == {1}


def test_compiled_programs_are_shared(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    run(tmp_path, a_run(tmp_path, "a", SHOWS.format("JAX_COMPILATION_CACHE_DIR")))
    assert str(tmp_path / "compiled_programs") in (tmp_path / "a" / "done").read_text()


def test_slots():
    num_cores = len(os.sched_getaffinity(0))
    assert len(make_slots(0, "", num_runs=10_000)) == num_cores
    assert len(make_slots(1000, "", num_runs=10_000)) == num_cores
    assert len(make_slots(8, "", num_runs=1)) == 1
    assert len(make_slots(0, "", num_runs=0)) == 1
    assert [slot.gpus for slot in make_slots(0, "0, 1,2", num_runs=10)] == ["0", "1", "2"]
    assert [(slot.gpus, slot.num_gpus) for slot in make_slots(0, "0,1;2, 3", num_runs=10)] == [("0,1", 2), ("2,3", 2)]
    assert [(slot.gpus, slot.num_gpus) for slot in make_slots(1, "", num_runs=10)] == [(None, 0)]
    with pytest.raises(InputError, match="parallel is 3, and gpus='0,1' are for 2"):
        make_slots(3, "0,1", num_runs=10)
    with pytest.raises(InputError, match="parallel is -1: it is how many runs work side by side"):
        make_slots(-1, "", num_runs=10)


@pytest.mark.parametrize("gpus", ["nonsense", "-1", "0-3", "0 1", "0,0", "0,00", "0,1;1,2"])
def test_gpus_are_numbers_each_once(gpus):
    with pytest.raises(InputError, match="gpus is .*expected numbers, each once"):
        make_slots(0, gpus, num_runs=10)


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A machine on which nvidia-smi finds two."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf 'NVIDIA X1\\nNVIDIA X1\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


@pytest.fixture
def four_chips(tmp_path, monkeypatch):
    """A machine with four TPU chips, and other cards, on its PCI bus."""
    ids = [("0x1ae0", "0x0063")] * 4 + [("0x1ae0", "0x0042"), ("0x8086", "0x0063")]  # a network card, another maker
    for number, (vendor, device) in enumerate(ids):
        card = tmp_path / "pci" / str(number)
        card.mkdir(parents=True)
        (card / "vendor").write_text(f"{vendor}\n")
        (card / "device").write_text(f"{device}\n")
    monkeypatch.setattr(machine, "_PCI", tmp_path / "pci")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("two_gpus")
def test_runs_never_share_gpus_unawares(monkeypatch):
    with pytest.raises(InputError, match="has 2 GPUs, of which every run would take all: .*--config.gpus=0,1"):
        make_slots(0, "", num_runs=10)
    assert [slot.num_gpus for slot in make_slots(1, "", num_runs=10)] == [2]
    assert len(make_slots(0, "0,1", num_runs=10)) == 2
    with pytest.raises(InputError, match="gpus is '1,2', but there is no GPU 2: this machine has 0 to 1"):
        make_slots(0, "1,2", num_runs=10)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert [slot.num_gpus for slot in make_slots(0, "", num_runs=2)] == [0] * min(2, len(os.sched_getaffinity(0)))


@pytest.mark.usefixtures("four_chips")
def test_runs_never_share_tpu_chips(monkeypatch):
    for parallel in (0, 2):
        with pytest.raises(InputError, match="has 4 TPU chips, of which every run would take all: .*parallel=1"):
            make_slots(parallel, "", num_runs=10)
    assert len(make_slots(1, "", num_runs=10)) == 1
    assert "4 TPU chips" in describe_machine()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert make_slots(0, "", num_runs=10)
    assert "TPU" not in describe_machine()


@pytest.mark.usefixtures("two_gpus")
def test_a_machine_is_described_in_a_line(monkeypatch):
    text = describe_machine()
    assert "2 x NVIDIA X1" in text
    assert f"{len(os.sched_getaffinity(0))} cores" in text
    assert "jax 0." in text
    assert "\n" not in text
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "NVIDIA" not in describe_machine()
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("PATH", "")
    assert "NVIDIA" not in describe_machine()


def test_a_command_whose_starter_has_ended_does_not_begin(monkeypatch):
    monkeypatch.setattr(sys, "platform", "other")  # or this process would end with its parent too
    with pytest.raises(SystemExit, match="has ended"):
        leash.main(1 if os.getppid() != 1 else 2, "", [])
