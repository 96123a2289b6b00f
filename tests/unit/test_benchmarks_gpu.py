"""The parts of benchmarks/gpu.py that a CPU can run."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vilbert_jax as vj

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    import gpu
    import profile_step


def test_without_a_gpu_it_says_what_it_would_measure(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu.main()
    said = capsys.readouterr().out
    assert said.startswith("No GPU here (JAX sees cpu); nothing was measured.")
    for part in gpu.PARTS:
        assert f"``{part}``" in said


def test_attention_is_timed_at_the_shapes_of_the_model():
    shapes = {shape.name: shape[1:] for shape in gpu.attention_shapes(vj.ViLBERTConfig.base(), 512, 8)}
    assert shapes["text, padded pairs"] == (512, 40, 12, 64)
    assert shapes["regions, packed rows"] == (64, 256, 8, 128)
    assert shapes["co-attention, packed rows"] == (64, 256, 8, 128)


def test_kernels_compared_compute_the_same():
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(2, 5, 2, 4)), jnp.float32) for _ in range(3))
    mask = jnp.ones((2, 1, 5, 5), bool).at[1, :, :, 3:].set(False)
    found = {name: np.asarray(kernel(query, key, value, mask)) for name, kernel in gpu.kernels(on_gpu=False).items()}
    assert list(found) == ["attend", "jax.nn, XLA"]
    np.testing.assert_allclose(found["attend"], found["jax.nn, XLA"], rtol=1e-5, atol=1e-6)
    assert "jax.nn, cuDNN" in gpu.kernels(on_gpu=True)


def test_attention_rows_hold_a_time_for_every_kernel():
    (row,) = gpu.attention_rows([gpu.Shape("a", 1, 4, 2, 4)], "bfloat16", repeats=2)
    assert row[0] == "a"
    assert len(row) == 1 + len(gpu.kernels(on_gpu=False))


def test_peaks_are_of_the_data_sheets_unless_stated():
    assert gpu.peak_flops("NVIDIA H100 80GB HBM3", 0) == 989e12
    assert gpu.peak_flops("NVIDIA H100 80GB HBM3", 500) == 500e12
    assert gpu.peak_flops("cpu", 0) == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_TNT", "matrix products"),
        ("ynn_fusion.12", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention kernels"),
        ("MemcpyD2D", "copies and transposes"),
        ("transpose_copy_fusion.3", "copies and transposes"),
        ("ncclDevKernel_AllReduce_Sum_f32", "communication"),
        ("input_reduce_fusion_5", "reductions"),
        ("loop_multiply_fusion", "elementwise"),
        ("something", "other"),
    ],
)
def test_kinds_of_kernels(name, kind):
    assert profile_step.kind_of(name) == kind


def test_events_are_summed_by_kind_without_what_holds_them():
    events = [("ynn_fusion.1", 2.0), ("ThunkExecutor::Execute", 9.0), ("ynn_fusion.2", 1.0), ("copy.1", 1.0)]
    assert profile_step.by_kind(events) == {"matrix products": 3.0, "copies and transposes": 1.0}
    assert profile_step.shares({"copies": 0.002}) == [["copies", "2.00", "100%"]]
    assert profile_step.shares({}) == []


def test_a_profile_sees_the_products_of_a_function():
    x = jax.numpy.ones((512, 512))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    assert profile_step.seconds_by_kind(lambda: product(x))["matrix products"] > 0
