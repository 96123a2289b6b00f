"""Files of tensors: three formats read alike, everything else refused without running it, nothing half written."""

import functools
import os
import pickle
import random
import stat
import subprocess
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vilbert_jax.checkpoints import tensor_files
from vilbert_jax.checkpoints.tensor_files import open_tensors, write_safetensors, write_torch
from vilbert_jax.errors import InputError

RNG = np.random.default_rng(0)
TENSORS = {
    "a.weight": RNG.normal(size=(4, 3)).astype(np.float32),
    "a.bias": RNG.normal(size=4).astype(np.float32),
    "gain": np.array(2.5, np.float32),
    "half": RNG.normal(size=(2, 5)).astype(np.float16),
    "double": RNG.normal(size=3),
    "position_ids": np.arange(6).reshape(1, 6),
}
FORMATS = ("safetensors", "zip", "legacy")
_MARKER = "it_ran"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def save(path, tensors, form):
    """Writes numpy arrays in one of the formats, as other programs write them."""
    if form == "safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        torch = pytest.importorskip("torch")
        save_torch(path, {name: torch.tensor(array) for name, array in tensors.items()}, form)
    return path


def save_torch(path, content, form):
    torch = pytest.importorskip("torch")
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


# --- reading


@pytest.mark.parametrize("form", FORMATS)
def test_names_shapes_dtypes_and_values_are_those_of_the_file(tmp_path, form):
    found = open_tensors(save(tmp_path / "weights", TENSORS, form))
    assert found.tensors.keys() == TENSORS.keys()
    assert found.left_out == ()
    for name, expected in TENSORS.items():
        tensor = found.tensors[name]
        assert tensor.shape == expected.shape
        assert tensor.is_float == (name != "position_ids")
        read = tensor.read(())
        assert read.dtype == expected.dtype
        assert read.shape == expected.shape  # a scalar stays one
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_is_that_part(tmp_path, form):
    tensors = open_tensors(save(tmp_path / "weights", TENSORS, form)).tensors
    np.testing.assert_array_equal(
        tensors["a.weight"].read((slice(1, 3), slice(None))), TENSORS["a.weight"][1:3], strict=True
    )
    np.testing.assert_array_equal(tensors["half"].read((slice(None), slice(4, 5))), TENSORS["half"][:, 4:], strict=True)
    np.testing.assert_array_equal(tensors["a.bias"].read((slice(0, 2),)), TENSORS["a.bias"][:2], strict=True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("narrow", [ml_dtypes.bfloat16, np.float16])
def test_narrow_floats_are_widened_exactly(tmp_path, form, narrow):
    every = np.arange(1 << 16, dtype=np.uint16).view(narrow)
    every = every[np.isfinite(every.astype(np.float32))].reshape(2, -1)
    path = tmp_path / "weights"
    if form == "safetensors":
        safetensors.numpy.save_file({"x": every}, path)
    else:
        torch = pytest.importorskip("torch")
        dtype = torch.bfloat16 if narrow is ml_dtypes.bfloat16 else torch.float16
        save_torch(path, {"x": torch.tensor(every.view(np.int16)).view(dtype)}, form)
    tensor = open_tensors(path).tensors["x"]
    assert tensor.dtype == ("bfloat16" if narrow is ml_dtypes.bfloat16 else "float16")
    assert tensor.is_float
    np.testing.assert_array_equal(np.asarray(tensor.read(()), np.float32), every.astype(np.float32))
    part = (slice(0, 1), slice(7, 9))
    np.testing.assert_array_equal(np.asarray(tensor.read(part), np.float32), every[part].astype(np.float32))


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_eight_bit_floats_are_no_parameters(tmp_path, form, torch):
    tensors = {"x": torch.ones(3).to(torch.float8_e4m3fn)}
    if form == "zip":
        save_torch(tmp_path / "weights", tensors, form)
    else:
        pytest.importorskip("safetensors.torch").save_file(tensors, tmp_path / "weights")
    assert not open_tensors(tmp_path / "weights").tensors["x"].is_float


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_parameters_that_require_gradients_are_read(tmp_path, form, torch):
    path = save_torch(tmp_path / "weights", {"x": torch.nn.Parameter(torch.ones(2, 2))}, form)
    np.testing.assert_array_equal(open_tensors(path).tensors["x"].read(()), np.ones((2, 2), np.float32))


def make_released_classes():
    """The classes that the multi-task release pickles into its training checkpoints, as far as pickling sees them."""

    class tbLogger:
        def __init__(self):
            self.task_names, self.loss = ["TASK1"], {"TASK1": 0.25}

    class MultiTaskStopOnPlateau:
        def __init__(self):
            self.is_better = functools.partial(self._compare, "max")  # a bound method

        def _compare(self, mode, a, best):
            raise AssertionError("code of the checkpoint ran")

        def __setstate__(self, state):
            raise AssertionError("code of the checkpoint ran")

    module = types.ModuleType("vilbert.utils")
    for kind in (tbLogger, MultiTaskStopOnPlateau):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    return module


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("release_is_importable", [False, True])
def test_a_training_checkpoint_gives_its_parameters(tmp_path, monkeypatch, torch, form, key, release_is_importable):
    module = make_released_classes()
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        key: network.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "warmup_scheduler_state_dict": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict(),
        "global_step": 7,
        "epoch_id": 1,
    }
    with monkeypatch.context() as importable:
        importable.setitem(sys.modules, "vilbert", types.ModuleType("vilbert"))
        importable.setitem(sys.modules, "vilbert.utils", module)
        content["tb_logger"] = module.tbLogger()
        content["task_stop_controller"] = {"TASK1": module.MultiTaskStopOnPlateau()}
        path = save_torch(tmp_path / "pytorch_ckpt_latest.tar", content, form)
        if release_is_importable:
            found = open_tensors(path)
    if not release_is_importable:
        assert "vilbert" not in sys.modules
        found = open_tensors(path)
    assert sorted(content.keys() - {key}) == [*found.left_out]
    assert found.tensors.keys() == {"weight", "bias"}
    np.testing.assert_array_equal(found.tensors["weight"].read(()), network.weight.detach().numpy())


# --- what is refused


class RunsACommand:
    """What a malicious pickle is: unpickling it calls any function."""

    def __reduce__(self):
        return os.system, (f"touch {_MARKER}",)


class WritesAFile:
    def __reduce__(self):
        return open, (_MARKER, "w")


class CallsHarmlessNames:
    """Goes through the very names that are let in; they are stand-ins, so nothing comes of it."""

    def __reduce__(self):
        return functools.partial, (print, _MARKER)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("evil", [RunsACommand, WritesAFile, CallsHarmlessNames])
@pytest.mark.parametrize("key", [None, "model_state_dict", "optimizer_state_dict"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch, capfd, torch, form, evil, key):
    monkeypatch.chdir(tmp_path)
    state = {"weight": torch.ones(2)}
    content = {**state, "x": evil()} if key is None else {"state_dict": state, key: {"x": evil()}}
    path = save_torch(tmp_path / "pytorch_model.bin", content, form)
    with pytest.raises(InputError, match="is refused: .*could run code \\(it asks for .*save the state dict alone"):
        open_tensors(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch, torch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(RunsACommand(), protocol))
    with pytest.raises(InputError, match="is refused|is neither a safetensors nor a PyTorch file"):
        open_tensors(tmp_path / "weights.bin")
    assert not (tmp_path / _MARKER).exists()


def test_the_attack_of_these_tests_works_on_an_unsafe_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(RunsACommand()))
    assert (tmp_path / _MARKER).exists()


@pytest.mark.parametrize("form", FORMATS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, form):
    content = save(tmp_path / "whole", TENSORS, form).read_bytes()
    path = tmp_path / "cut"
    for length in {*range(0, len(content), max(1, len(content) // 150)), *range(len(content) - 40, len(content))}:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cut"):
            open_tensors(path)


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_refused_or_read_and_nothing_else(tmp_path, form):
    content = save(tmp_path / "whole", {"a": TENSORS["a.weight"], "b": TENSORS["gain"]}, form).read_bytes()
    rng, path, refused = random.Random(0), tmp_path / "damaged", 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 3))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            for tensor in open_tensors(path).tensors.values():
                tensor.read(())
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "neither a safetensors nor a PyTorch file: it starts with b'<!DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        ((1 << 40).to_bytes(8, "little") + b"{", "neither a safetensors nor a PyTorch file"),
        ((1 << 20).to_bytes(8, "little") + b"{}", "damaged or truncated safetensors file"),
        ((2).to_bytes(8, "little") + b"{x", "damaged or truncated safetensors file"),
    ],
)
def test_what_is_no_tensor_file_is_refused_by_its_content(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        open_tensors(path)
    assert str(path) in str(error.value)


def test_what_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(InputError, match="absent.bin cannot be read: No such file"):
        open_tensors(tmp_path / "absent.bin")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "model.tar"])
def test_the_ending_of_a_name_means_nothing(tmp_path, form, name):
    found = open_tensors(save(tmp_path / name, TENSORS, form)).tensors["a.bias"]
    np.testing.assert_array_equal(found.read(()), TENSORS["a.bias"])


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_holds_no_state_dict_is_refused(tmp_path, torch, form):
    for content, found in [
        ([torch.ones(2)], "found a list"),
        (torch.ones(2), "found a Tensor"),
        ({}, "found a dict"),
        ({"weight": torch.ones(2), "epoch": 3}, "found a dict in which 'epoch' is a int"),
        ({"model": {"weight": "w"}}, "found a dict in which 'weight' is a str"),
    ]:
        path = save_torch(tmp_path / "weights.bin", content, form)
        with pytest.raises(InputError, match="holds no state dict") as error:
            open_tensors(path)
        assert found in str(error.value)


def test_a_whole_module_is_refused_with_its_name(tmp_path, torch):
    path = save_torch(tmp_path / "weights.bin", torch.nn.Linear(2, 2), "zip")
    with pytest.raises(InputError, match="asks for torch.nn.modules.linear.Linear") as error:
        open_tensors(path)
    assert "add_safe_globals" not in str(error.value)  # no advice to trust it


# --- without torch


def test_without_torch_its_files_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for start in (b"PK\x03\x04", b"\x80\x02"):
        (tmp_path / "weights.bin").write_bytes(start + b"rest")
        with pytest.raises(InputError, match="reading .*weights.bin.* needs torch, which is not installed.*pip"):
            open_tensors(tmp_path / "weights.bin")
    with pytest.raises(InputError, match="writing out.bin needs torch"):
        write_torch(tmp_path / "out.bin", TENSORS)
    assert not (tmp_path / "out.bin").exists()


def test_without_torch_safetensors_are_read_and_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    write_safetensors(tmp_path / "out.safetensors", TENSORS)
    assert open_tensors(tmp_path / "out.safetensors").tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121", "2.9.0"])
def test_a_torch_whose_loader_can_be_made_to_run_code_does_not_read(tmp_path, monkeypatch, torch, version):
    path = save_torch(tmp_path / "weights.bin", {"x": torch.ones(2)}, "zip")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match="crafted file can run code: install torch 2.10 or newer") as error:
        open_tensors(path)
    assert version in str(error.value)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0a0+git1234"])
def test_newer_versions_of_torch_read(tmp_path, monkeypatch, torch, version):
    path = save_torch(tmp_path / "weights.bin", {"x": torch.ones(2)}, "zip")
    monkeypatch.setattr(torch, "__version__", version)
    assert open_tensors(path).tensors.keys() == {"x"}


# --- writing

WRITERS = [(write_safetensors, "out.safetensors"), (write_torch, "out.bin")]


def skip_without_torch(writer):
    if writer is write_torch:
        pytest.importorskip("torch")


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_what_is_written_is_read_again(tmp_path, writer, name):
    skip_without_torch(writer)
    path = tmp_path / "made" / name
    read_only = TENSORS["a.weight"].copy()
    read_only.flags.writeable = False
    writer(path, TENSORS | {"read only": read_only})
    found = open_tensors(path).tensors
    assert [*found] == [*TENSORS, "read only"] or writer is write_safetensors  # which sorts
    for name, expected in (TENSORS | {"read only": read_only}).items():
        np.testing.assert_array_equal(found[name].read(()), expected, strict=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_released_code_can_read_what_is_written(tmp_path, torch):
    """It asks for torch 1.1, which knows no zip archives and no newer pickle protocol than 2."""
    write_torch(tmp_path / "out.bin", TENSORS)
    content = (tmp_path / "out.bin").read_bytes()
    assert content.startswith(b"\x80\x02")
    loaded = torch.load(tmp_path / "out.bin", weights_only=True)
    assert type(loaded) is dict
    np.testing.assert_array_equal(loaded["a.weight"].numpy(), TENSORS["a.weight"])


def test_transformers_accepts_the_safetensors_header(tmp_path):
    write_safetensors(tmp_path / "out.safetensors", TENSORS)
    with safetensors.safe_open(tmp_path / "out.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_an_existing_file_is_replaced_at_the_end(tmp_path, monkeypatch, writer, name):
    skip_without_torch(writer)
    (tmp_path / name).write_bytes(b"before")
    seen, replace = [], os.replace

    def look(part, path):
        seen.append((path.read_bytes(), [*open_tensors(part).tensors]))
        replace(part, path)

    monkeypatch.setattr(tensor_files.os, "replace", look)
    writer(tmp_path / name, {"x": TENSORS["a.bias"]})
    assert seen == [(b"before", ["x"])]
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("writer", "name"), WRITERS)
@pytest.mark.parametrize("before", [None, b"before"])
def test_on_a_full_disk_the_folder_is_as_it_was(tmp_path, writer, name, before):
    """Files that cannot grow: in another process, since the limit cannot be taken back."""
    skip_without_torch(writer)
    if before:
        (tmp_path / name).write_bytes(before)
    program = f"""
import pathlib, resource
import numpy as np
from vilbert_jax.checkpoints.tensor_files import {writer.__name__}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    {writer.__name__}(pathlib.Path({name!r}), {{f"x{{i}}": np.ones((100, 100), np.float32) for i in range(10)}})
except OSError as error:
    assert "could not be written" in str(error) and "File too large" in str(error), error
else:
    raise SystemExit("the limit did not hold")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=with_package(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert [file.name for file in tmp_path.iterdir()] == ([name] if before else [])
    assert not before or (tmp_path / name).read_bytes() == before


def with_package():
    """This environment, in which another process finds the package from any folder."""
    return {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(tensor_files.__file__)))}


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_a_file_in_the_way_of_the_folder_is_an_error(tmp_path, writer, name):
    skip_without_torch(writer)
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OSError, match="taken"):
        writer(tmp_path / "taken" / name, TENSORS)
