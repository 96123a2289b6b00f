"""Checkpoints: exact, verified, kept and thrown away in the right order."""

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax.checkpoints.folder import (
    find_damage,
    latest_checkpoint,
    read_contents,
    restore_params,
    write_contents,
)
from vilbert_jax.errors import InputError
from vilbert_jax.sharding import MeshConfig, make_mesh, state_shardings
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from vilbert_jax.training.state import TrainState

MESHES = [MeshConfig(), MeshConfig(fsdp=8), MeshConfig(tensor=8), MeshConfig(data=2, fsdp=2, tensor=2)]
IDENTITY = {"model": {"width": 8, "layers": (1, 2), "name": "toy"}, "contract": None}


def make_state(step: int, width: int = 8) -> TrainState:
    keys = jax.random.split(jax.random.key(step), 2)
    params = {
        "trunk": {"text_embeddings": {"word_embeddings": {"embedding": jax.random.normal(keys[0], (16, width))}}},
        "alignment_head": {"kernel": jax.random.normal(keys[1], (width, 6)), "bias": jnp.arange(6.0)},
    }
    opt_state: Any = make_optimizer(OptimizerConfig(), 10).init(params)
    opt_state = opt_state._replace(nu=jax.tree.map(jnp.square, params))
    return TrainState(jnp.int32(step), params, opt_state)


def place(state: TrainState, config: MeshConfig = MESHES[-1]) -> TrainState:
    return jax.device_put(state, state_shardings(state, make_mesh(config)))


def abstract_state(config: MeshConfig = MESHES[-1], width: int = 8) -> TrainState:
    shapes = jax.eval_shape(lambda: make_state(0, width))
    shardings = state_shardings(shapes, make_mesh(config))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def open_checkpoints(directory: Path, keep: int = 3, identity=IDENTITY) -> Checkpoints:
    return Checkpoints(directory, keep=keep, identity=identity)


def save_steps(directory: Path, *steps: int, keep: int = 3) -> None:
    with open_checkpoints(directory, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, place(make_state(step)))


def assert_states_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Steps 1 and 2, to be copied before they are touched."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_steps(directory, 1, 2)
    return directory


@pytest.fixture
def two_steps(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps == []
        assert checkpoints.restore(abstract_state()) is None


@pytest.mark.parametrize("config", MESHES)
def test_restored_on_any_mesh_identically(two_steps, config):
    with open_checkpoints(two_steps) as checkpoints:
        restored = checkpoints.restore(abstract_state(config))
    assert isinstance(restored, TrainState)
    assert_states_equal(restored, make_state(2))
    expected = state_shardings(restored, make_mesh(config))
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding == s, restored, expected))


def test_what_is_saved_is_the_state_at_the_time_of_the_call(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = place(make_state(1))
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = overwrite(state)
        checkpoints.wait()
        assert_states_equal(checkpoints.restore(abstract_state()), make_state(1))


def test_the_newest_are_kept(tmp_path):
    save_steps(tmp_path, 1, 2, 3, 4, 5, keep=2)
    with open_checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [4, 5]
    assert find_damage(tmp_path / "4") is None


def test_saving_the_same_step_again_does_nothing(two_steps):
    with open_checkpoints(two_steps) as checkpoints:
        state = checkpoints.restore(abstract_state())
        assert state is not None
        checkpoints.save(2, state)
        checkpoints.save(3, state)
        checkpoints.save(3, state)
        assert checkpoints.steps == [1, 2, 3]


def test_a_save_that_fails_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    save_steps(tmp_path, 1, keep=1)

    def disk_full(folder, **_):
        raise OSError("no space left on device")

    monkeypatch.setattr("vilbert_jax.training.checkpointing.write_contents", disk_full)
    checkpoints = open_checkpoints(tmp_path, keep=1)
    checkpoints.save(2, place(make_state(2)))
    with pytest.raises(OSError, match="no space left"):
        checkpoints.wait()
    assert latest_checkpoint(tmp_path).name == "1"


def test_the_older_checkpoint_is_there_until_the_newer_is_committed(tmp_path, monkeypatch):
    """Looked at from inside the save, at the last moment before the commit."""
    save_steps(tmp_path, 1, keep=1)
    seen = []

    def look(folder, **contents):
        seen.append([path.name for path in tmp_path.iterdir() if path.name.isdigit()])
        write_contents(folder, **contents)

    monkeypatch.setattr("vilbert_jax.training.checkpointing.write_contents", look)
    save_steps(tmp_path, 2, keep=1)
    assert seen == [["1"]]
    assert latest_checkpoint(tmp_path).name == "2"


def test_an_interrupted_save_does_not_count_and_is_cleared_away(two_steps):
    (two_steps / "2").rename(two_steps / "2.orbax-checkpoint-tmp")  # what a kill just before the commit leaves
    with open_checkpoints(two_steps) as checkpoints:
        assert checkpoints.steps == [1]
        assert_states_equal(checkpoints.restore(abstract_state()), make_state(1))
    assert [path.name for path in two_steps.iterdir()] == ["1"]


def damaged_files(directory: Path) -> list[Path]:
    """Every file that matters when the checkpoint is read, and the file that says so."""
    files = sorted(path for path in (directory / "state").rglob("*") if path.is_file())
    assert len(files) >= 4
    return [*files, directory / "contents.json"]


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_damage_to_any_file_is_found_and_named(saved, tmp_path, how):
    assert find_damage(saved / "2") is None
    for file in damaged_files(saved / "2"):
        directory = Path(shutil.copytree(saved / "2", tmp_path / "2", dirs_exist_ok=True))
        target, content = directory / file.relative_to(saved / "2"), file.read_bytes()
        if how == "missing":
            target.unlink()
        elif how == "truncated":
            target.write_bytes(content[: len(content) // 2])
        elif content:
            target.write_bytes(bytes([content[0] ^ 1, *content[1:]]))
        if content or how == "missing":
            assert str(target) in (find_damage(directory) or ""), how


def truncate_a_file(checkpoint: Path) -> Path:
    file = max((checkpoint / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    file.write_bytes(file.read_bytes()[:-10])
    return file


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(two_steps, caplog):
    file = truncate_a_file(two_steps / "2")
    with open_checkpoints(two_steps) as checkpoints, caplog.at_level(logging.WARNING):
        assert_states_equal(checkpoints.restore(abstract_state()), make_state(1))
        (message,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
        assert str(file) in message
        assert "Continuing from step 1" in message
        # the step can be saved again, and what was damaged neither counts nor is lost
        checkpoints.save(2, place(make_state(2)))
        checkpoints.wait()
        assert checkpoints.steps == [1, 2]
    assert find_damage(two_steps / "2") is None
    assert (two_steps / "2.corrupt").is_dir()


def test_a_step_damaged_twice_is_kept_twice(two_steps):
    for _ in range(2):
        truncate_a_file(two_steps / "2")
        with open_checkpoints(two_steps) as checkpoints:
            checkpoints.restore(abstract_state())
            checkpoints.save(2, place(make_state(2)))
    assert sorted(path.name for path in two_steps.iterdir()) == ["1", "2", "2.corrupt", "2.corrupt2"]


def test_only_damaged_checkpoints_are_an_error(two_steps):
    for step in ("1", "2"):
        truncate_a_file(two_steps / step)
    with open_checkpoints(two_steps) as checkpoints, pytest.raises(InputError, match="step 2: .* step 1: .*--workdir"):
        checkpoints.restore(abstract_state())
    with pytest.raises(InputError, match="no usable checkpoint"):
        latest_checkpoint(two_steps)
    assert sorted(path.name for path in two_steps.iterdir()) == ["1", "2"]


def test_another_identity_is_refused_by_field(two_steps):
    other = {"model": {"width": 16, "layers": (1, 2)}, "contract": {"detector": "b"}}
    with open_checkpoints(two_steps, identity=other) as checkpoints, pytest.raises(InputError) as error:
        checkpoints.restore(abstract_state())
    message = str(error.value)
    assert "model.width: checkpoint 8, this run 16" in message
    assert 'model.name: checkpoint "toy", this run has none' in message
    assert 'contract.detector: checkpoint has none, this run "b"' in message
    assert "model.layers" not in message
    assert "another --workdir" in message


def test_a_run_goes_on_with_other_lengths_and_from_checkpoints_that_state_none(two_steps):
    for length in (30, 40):
        with open_checkpoints(two_steps, identity={**IDENTITY, "trained_for": {"text_length": length}}) as checkpoints:
            restored = checkpoints.restore(abstract_state())
            assert restored is not None
            checkpoints.save(length, restored)
        assert read_contents(two_steps / str(length)).identity["trained_for"] == {"text_length": length}


def test_arrays_of_another_shape_are_refused_by_path(two_steps):
    with open_checkpoints(two_steps) as checkpoints, pytest.raises(InputError, match="another --workdir") as error:
        checkpoints.restore(abstract_state(width=16))
    assert 'params/alignment_head/kernel: checkpoint ["float32", 8, 6], this run ["float32", 16, 6]' in str(error.value)


def test_readers_find_the_newest_good_one_and_change_nothing(two_steps):
    truncate_a_file(two_steps / "2")
    before = sorted(path.name for path in two_steps.iterdir())
    path = latest_checkpoint(two_steps)
    assert path.name == "1"
    assert read_contents(path).identity == {"model": {"width": 8, "layers": [1, 2], "name": "toy"}, "contract": None}
    params = restore_params(path, abstract_state(MESHES[1]).params)
    assert_states_equal(params, make_state(1).params)
    assert sorted(path.name for path in two_steps.iterdir()) == before


def test_a_path_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(InputError, match="not a checkpoint"):
        read_contents(tmp_path)
    with pytest.raises(InputError, match="no usable checkpoint"):
        latest_checkpoint(tmp_path / "absent")


def test_keeping_none_is_an_error(tmp_path):
    with pytest.raises(InputError, match="keep_checkpoints is 0"):
        open_checkpoints(tmp_path, keep=0)
