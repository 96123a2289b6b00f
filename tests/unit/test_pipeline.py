"""Batches by step: a pure function of (seed, step, example), read by any number of hosts, threads and processes."""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from vilbert_jax.data.pipeline import Dataset, make_dataset
from vilbert_jax.errors import InputError


class Numbers:
    """Examples that hold their row and what they drew."""

    def __init__(self, count, broken_row=None):
        self.count, self.broken_row = count, broken_row

    def __len__(self):
        return self.count

    def example(self, index, rng):
        if index == self.broken_row:
            raise InputError(f"row {index} is broken")
        return {"row": np.array(index, np.int32), "draws": rng.random((2, 3)), "process": np.array(os.getpid())}


class Placed(Numbers):
    """Also says where in the global batch its examples stand."""

    def batch_fields(self, rows, batch_size, generators):
        drawn = [rng.integers(batch_size, size=2) for rng in generators]
        return {"place": np.array(rows), "drawn": np.stack(drawn)}


def training(count=10, batch_size=4, seed=0, source=Numbers, **kwargs):
    return Dataset(source(count), batch_size=batch_size, seed=seed, shuffle=True, **kwargs)


def evaluation(count=10, batch_size=4, source=Numbers, **kwargs):
    return Dataset(source(count), batch_size=batch_size, seed=0, shuffle=False, **kwargs)


def without_process(batch):
    return {name: values for name, values in batch.items() if name != "process"}


def assert_same(a, b):
    a, b = without_process(a), without_process(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype


def rows_of(dataset, steps):
    return np.concatenate([dataset[step]["row"] for step in steps])


def test_batch_is_a_pure_function_of_seed_and_step():
    dataset, again = training(), training()
    batches = [dataset[step] for step in range(12)]
    for step in (11, 3, 0, 7):
        assert_same(again[step], batches[step])
    other = training(seed=1)
    assert rows_of(other, range(5)).tolist() != rows_of(dataset, range(5)).tolist()
    assert not np.isin(other[0]["draws"], batches[0]["draws"]).any()


def test_training_shuffles_the_whole_split_anew_each_epoch_without_end():
    dataset = training(count=10, batch_size=4)
    rows = rows_of(dataset, range(25)).reshape(10, 10)  # ten epochs; batches straddle their ends
    for epoch in rows:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in rows}) == 10
    far = dataset[10**12]
    assert far["row"].shape == (4,)
    assert far["example_mask"].all()
    with pytest.raises(TypeError, match="endless"):
        len(dataset)


def test_order_of_neighbouring_seeds_is_unrelated():
    orders = [rows_of(training(count=50, batch_size=50, seed=seed), range(4)).reshape(4, 50) for seed in range(3)]
    epochs = [tuple(epoch) for order in orders for epoch in order]
    assert len(set(epochs)) == len(epochs)


def test_every_place_in_the_order_is_equally_likely():
    counts = np.zeros((5, 5))
    dataset = training(count=5, batch_size=5)
    for step in range(5000):
        counts[np.arange(5), dataset[step]["row"]] += 1
    np.testing.assert_allclose(counts / 5000, 0.2, atol=0.03)


def test_draws_differ_between_examples_and_epochs():
    dataset = training()
    draws = np.concatenate([dataset[step]["draws"].ravel() for step in range(10)])
    assert len(np.unique(draws)) == draws.size


@pytest.mark.parametrize("host_count", [2, 4])
@pytest.mark.parametrize("make", [training, evaluation])
def test_hosts_hold_contiguous_parts_of_the_same_batch(make, host_count):
    whole = make(source=Placed)
    hosts = [make(source=Placed, host_index=host, host_count=host_count) for host in range(host_count)]
    for step in range(3):
        parts = [host[step] for host in hosts]
        assert_same(whole[step], {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        assert {part["row"].shape for part in parts} == {(4 // host_count,)}


def test_evaluation_has_each_example_once_in_order_and_marks_what_fills_up():
    dataset = evaluation(count=10, batch_size=4)
    assert len(dataset) == 3
    batches = [dataset[step] for step in range(3)]
    mask = np.concatenate([batch["example_mask"] for batch in batches])
    index = np.concatenate([batch["example_index"] for batch in batches])
    assert index[mask].tolist() == list(range(10))
    assert mask.tolist() == [True] * 10 + [False] * 2
    assert index[~mask].tolist() == [0, 1]  # real examples, not copies of their neighbours
    assert index.dtype == np.int32
    assert mask.dtype == bool
    assert {batch["row"].shape for batch in batches} == {(4,)}


def test_evaluation_smaller_than_a_batch_still_has_its_shape():
    batch = evaluation(count=3, batch_size=8)[0]
    assert batch["row"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert batch["example_mask"].sum() == 3


def test_evaluation_ends():
    dataset = evaluation()
    for step in (3, -1):
        with pytest.raises(IndexError, match=str(step)):
            dataset[step]
    assert [batch["row"][0] for batch in dataset] == [0, 4, 8]
    with pytest.raises(IndexError):
        training()[-1]


def test_batch_fields_know_their_place_and_draw_for_themselves():
    batch = training(source=Placed)[2]
    assert batch["place"].tolist() == [0, 1, 2, 3]
    plain = training()[2]
    assert_same(plain, {name: batch[name] for name in plain})
    assert training(source=Placed)[3]["drawn"].tolist() != batch["drawn"].tolist()


def test_make_dataset_shuffles_training_only():
    class Config:
        batch_size, seed, opened = 4, 3, []

        def open(self, split):
            self.opened.append(split)
            return Numbers(10)

    config = Config()
    assert_same(make_dataset(config)[1], training(seed=3)[1])
    assert_same(
        make_dataset(config, split="test", host_index=1, host_count=2)[1],
        evaluation()[1]
        | {name: values[2:] for name, values in Dataset(Numbers(10), batch_size=4, seed=3, shuffle=False)[1].items()},
    )
    assert_same(make_dataset(config, split="train[:25%]")[1], training(seed=3)[1])
    assert config.opened == ["train", "test", "train[:25%]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 10, "host_count": 4}, "batch_size 10 does not divide over 4 hosts"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"count": 0}, "no examples"),
        ({"host_index": 2, "host_count": 2}, r"0\.\.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_unusable_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        training(**arguments)


def test_threads_read_the_same_batches():
    dataset = training()
    with dataset.iterate(5) as batches:
        for step, batch in zip(range(5, 12), batches, strict=False):
            assert_same(batch, dataset[step])
    for first in (0, 2, 3, 7):
        steps = evaluation(count=10, batch_size=4)
        assert [b["row"][0] for b in steps.iterate(first, prefetch=1)] == [4 * step for step in range(first, 3)]


def test_worker_processes_read_the_same_batches_and_raise_the_same_errors():
    dataset = training(count=50)
    with dataset.iterate(3, workers=2, prefetch=3) as batches:
        read = list(itertools.islice(batches, 9))
    for step, batch in enumerate(read, start=3):
        assert_same(batch, dataset[step])
    processes = {int(process) for batch in read for process in batch["process"]}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert not any(is_running(process) for process in processes)

    broken = Dataset(Numbers(22, broken_row=17), batch_size=4, seed=0, shuffle=False, workers=2)
    batches = broken.iterate()
    assert [next(batches)["row"][0] for _ in range(4)] == [0, 4, 8, 12]
    with pytest.raises(InputError, match="row 17 is broken"):
        next(batches)


def test_worker_processes_end_with_the_split():
    dataset = evaluation(count=22, workers=2)
    read = list(dataset.iterate(1))
    assert [batch["row"][0] for batch in read] == [4, 8, 12, 16, 20]
    assert not any(is_running(int(batch["process"][0])) for batch in read)


def test_threads_raise_the_error_of_the_source_and_close():
    batches = Dataset(Numbers(10, broken_row=5), batch_size=4, seed=0, shuffle=False).iterate()
    next(batches)
    with pytest.raises(InputError, match="row 5 is broken"):
        next(batches)
    batches.close()
    assert list(batches) == []


def test_iterate_refuses_impossible_numbers():
    with pytest.raises(InputError, match="prefetch 0"):
        training().iterate(prefetch=0)
    with pytest.raises(InputError, match="workers is -1"):
        training().iterate(workers=-1)


def test_importing_and_reading_by_step_does_not_import_jax():
    script = """
        import sys
        from vilbert_jax.data import Dataset
        from test_pipeline import training
        training()[0]
        assert not {"jax", "tensorflow", "torch"} & set(sys.modules), "imported"
    """
    process = start(script)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_script_without_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from test_pipeline import training\nnext(training().iterate(workers=2))\n")
    process = start_file(script)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "each worker process imports the main script again" in err


READ_FOR_EVER = """
    import sys
    from test_pipeline import training

    if __name__ == "__main__":
        batches = training(count=50).iterate(workers=int(sys.argv[1]))
        processes = {int(next(batches)["process"][0]) for _ in range(6)}
        print(*processes, flush=True)
"""
WAIT = "        while True: next(batches)\n"


def start(script, *arguments):
    """A Python process that runs this text."""
    return start_file("-c", textwrap.dedent(script), *arguments)


def start_file(*arguments):
    """A Python process of its own process group, with this folder's modules."""
    here, root = pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(here)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


STARTED = []


@pytest.fixture(autouse=True)
def _nothing_reads_on():
    """A test that fails half-way, say by a time-out, would leave processes that read for ever."""
    yield
    while STARTED:
        with STARTED.pop() as process, contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def is_running(process):
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_until_gone(processes):
    for _ in range(600):
        if not any(is_running(process) for process in processes):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_program_that_forgets_to_close_ends(workers):
    process = start(READ_FOR_EVER, workers)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Exception" not in err
    assert wait_until_gone([int(number) for number in out.split()])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_program(stop):
    process = start(READ_FOR_EVER + WAIT, "2")
    assert process.stdout
    workers = [int(number) for number in process.stdout.readline().split()]
    assert len(workers) == 2
    # Ctrl-C reaches the whole group; kill -9 only the program.
    (os.killpg if stop == signal.SIGINT else os.kill)(process.pid, stop)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -stop
    assert wait_until_gone(workers)
    if stop == signal.SIGINT:
        assert err.count("KeyboardInterrupt") == 1, err
