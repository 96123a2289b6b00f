"""Predicts weak scaling of pre-training the base model from what its compiled step sends. Nothing runs on a device.

python benchmarks/weak_scaling.py [--pairs=512] [--fsdp] [--dtype=bfloat16] [--reached=0.5]

The step is compiled for 8 pretended devices of this processor. Texts have 16 places and pictures 28, about what
captions and detections really hold, all of them filled. docs/planning.md has the results, the formula and what it
leaves out.
"""

import argparse
import functools

import jax
import numpy as np

import vilbert_jax as vj
from vilbert_jax.model import init_params
from vilbert_jax.planning.job import Compiled, Job, compile_job
from vilbert_jax.planning.scaling import Level, Machine, predict
from vilbert_jax.sharding import MeshConfig
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.optimizer import OptimizerConfig

TEXT_LENGTH, NUM_REGIONS, NUM_WORDS = 16, 27, 3
COMPILED_FOR = 8
LOSS_WEIGHTS = {"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0}

# NVIDIA H100 SXM data sheet: 989 TFLOP/s bfloat16 dense, 3.35 TB/s, NVLink 900 GB/s both ways together; DGX H100: 8
# GPUs and 8 x 400 Gb/s InfiniBand. Google Cloud, TPU v5p: 459 TFLOP/s, 2765 GB/s, 1200 GB/s both ways over six links
# of a 3-D torus. Latencies are assumptions.
MACHINES = (
    Machine("H100", 989e12, 3.35e12, (Level(8, 450e9, 2e-6), Level(2**20, 50e9, 5e-6))),
    Machine("TPU v5p", 459e12, 2.765e12, (Level(2**20, 600e9, 1e-6, axes=3),)),
)


def make_batch(config: vj.ViLBERTConfig, rows: int) -> dict[str, np.ndarray]:
    """Shapes and dtypes of a batch; what is in it is never read."""
    slots = NUM_REGIONS + 1
    shapes = {
        "token_ids": ((TEXT_LENGTH,), np.int32),
        "token_types": ((TEXT_LENGTH,), np.int32),
        "text_mask": ((TEXT_LENGTH,), np.bool_),
        "stored_features": ((NUM_REGIONS, config.region_feature_dim), np.int8),
        "feature_scales": ((NUM_REGIONS,), np.float32),
        "region_visible": ((NUM_REGIONS,), np.bool_),
        "num_pooled": ((), np.int32),
        "region_boxes": ((slots, 5), np.float32),
        "region_mask": ((slots,), np.bool_),
        "masked_positions": ((NUM_WORDS,), np.int32),
        "token_labels": ((NUM_WORDS,), np.int32),
        "token_label_mask": ((NUM_WORDS,), np.bool_),
        "target_probs": ((NUM_REGIONS, 32), np.float16),
        "target_classes": ((NUM_REGIONS, 32), np.int16),
        "region_label_mask": ((NUM_REGIONS,), np.bool_),
        "alignment_labels": ((), np.int32),
        "example_mask": ((), np.bool_),
        "example_index": ((), np.int32),
    }
    return {name: np.zeros((rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}


def compiled_step(pairs: int, dtype: str, mesh: MeshConfig) -> Compiled:
    """The step of the base model on ``COMPILED_FOR`` devices with ``pairs`` pairs each."""
    config = vj.ViLBERTConfig.base(dtype=dtype)
    model, batch_size = vj.ViLBERTForPretraining(config), pairs * COMPILED_FOR
    given = {
        "init_params": functools.partial(init_params, model),
        "loss_fn": pretraining.make_loss_fn(model, "all"),
        "loss_weights": LOSS_WEIGHTS,
        "optimizer": OptimizerConfig(),
        "mesh": mesh,
    }
    job = Job(TrainingConfig(total_steps=1, batch_size=batch_size), given, make_batch(config, batch_size))
    return compile_job(job, jax.devices())


def main() -> None:
    """Prints what is sent, and a line for each kind and number of devices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=512, help="pairs a device in every step")
    parser.add_argument("--fsdp", action="store_true", help="split the parameters over all devices")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--reached", type=float, default=0.5, help="share of the peak that matrix products reach")
    asked = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", COMPILED_FOR)
    mesh = MeshConfig(data=1, fsdp=COMPILED_FOR) if asked.fsdp else MeshConfig(data=COMPILED_FOR)
    step = compiled_step(asked.pairs, asked.dtype, mesh)
    flops = step.flops / COMPILED_FOR
    print(f"{asked.pairs} pairs a device, {asked.dtype}, {'fsdp' if asked.fsdp else 'data'}; {flops:.3g} FLOP a device")
    for one in step.traffic:
        print(f"  {one.kind}: {one.number} a step, {one.payload / 1e6:,.0f} MB in all")
    print(f"\n{'':8} {'devices':>8} {'compute':>10} {'update':>10} {'sending':>10} {'exposed':>9} {'overlapped':>11}")
    for machine in MACHINES:
        for number in (8, 64, 256, 1024):
            work = {"flops": flops, "update_bytes": step.update_bytes, "reached": asked.reached}
            found = predict(machine, number, step.traffic, **work)
            times = (found.compute, found.update, found.communication)
            spent = "".join(f"{1e3 * seconds:8.1f} ms" for seconds in times)
            print(f"{machine.name:8} {number:8} {spent} {found.exposed:9.1%} {found.overlapped:11.1%}")


if __name__ == "__main__":
    main()
