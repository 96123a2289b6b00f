"""A run as a plan sees it: what ``train`` is given, and the program that it would compile."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.planning.collectives import Traffic, traffic_of
from vilbert_jax.planning.flops import computed_flops
from vilbert_jax.planning.memory import Device, Need, need_of
from vilbert_jax.sharding import PARAM_AXES, MeshConfig, batch_sharding, make_mesh
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.program import TrainProgram, make_program


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that is planned.

    Attributes:
        training: lengths and intervals.
        given: the other arguments of ``train``, by name.
        batch: of the first step, whole.
    """

    training: TrainingConfig
    given: Mapping[str, Any]
    batch: Mapping[str, np.ndarray]

    @property
    def model(self) -> ViLBERTConfig:
        """The network."""
        return ViLBERTConfig.from_dict(self.given["identity"]["model"])

    @property
    def heads(self) -> tuple[str, ...]:
        """What the network has on top."""
        return tuple(self.given["identity"]["heads"])

    @property
    def num_rows(self) -> int:
        """Rows of the batch's arrays."""
        return len(next(iter(self.batch.values())))

    def of_rows(self, rows: int) -> "Job":
        """The same run with the first rows of the batch, worked through at once on one device."""
        batch_size = self.training.batch_size * rows // self.num_rows
        training = dataclasses.replace(self.training, batch_size=batch_size, num_microbatches=1)
        batch = {name: x[:rows] for name, x in self.batch.items()}
        return Job(training, {**self.given, "mesh": MeshConfig(data=1)}, batch)


class Compiled(NamedTuple):
    """The compiled step of a job.

    Attributes:
        program: what it is made of.
        executable: takes the state and the batch.
        need: memory of each device.
        traffic: what devices send each other in a step.
        flops: of a step's matrix products, of all devices together.
        param_bytes: of the parameters on one device.
        state_bytes: of the whole state on one device.
        checkpoint_bytes: of the state, wherever it is.
    """

    program: TrainProgram
    executable: jax.stages.Compiled
    need: Need
    traffic: list[Traffic]
    flops: int
    param_bytes: int
    state_bytes: int
    checkpoint_bytes: int

    @property
    def num_devices(self) -> int:
        """Devices of the mesh."""
        return self.program.device_mesh.size

    @property
    def update_bytes(self) -> int:
        """What updating moves through a device's memory: the state read and written, the gradients read twice.

        Twice, because their norm is needed before their first use.
        """
        return 2 * self.state_bytes + 2 * self.param_bytes


def compile_job(job: Job, devices: Sequence[Device]) -> Compiled:
    """Compiles the step that ``train`` would run; no array is made.

    Raises:
        InputError: mesh, batch size or optimizer do not fit.
    """
    given = job.given
    program = make_program(
        job.training,
        init_params=given["init_params"],
        loss_fn=given["loss_fn"],
        loss_weights=given["loss_weights"],
        optimizer=given["optimizer"],
        device_mesh=make_mesh(given["mesh"], devices),
        param_axes=given.get("param_axes", PARAM_AXES),
    )
    by_batch, mesh = batch_sharding(program.device_mesh), program.device_mesh
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=by_batch)
        for name, x in job.batch.items()
    }
    with jax.set_mesh(mesh):
        traced = program.step.trace(program.abstract, batch)
        executable = traced.lower().compile()
    return Compiled(
        program,
        executable,
        need_of(executable),
        traffic_of(executable.as_text() or "", dict(mesh.shape)) if mesh.size > 1 else [],
        computed_flops(traced.jaxpr.jaxpr),
        _bytes_on_one(program.abstract.params),
        _bytes_on_one(program.abstract),
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.abstract)),
    )


def _bytes_on_one(abstract: Any) -> int:
    leaves = jax.tree.leaves(abstract)
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in leaves)
