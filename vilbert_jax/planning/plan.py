"""Puts a plan together: compiles the step, looks at the data, measures the device, adds up."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from vilbert_jax.planning import rates as measuring
from vilbert_jax.planning.job import Compiled, Job, compile_job
from vilbert_jax.planning.memory import Device, capacity, resident
from vilbert_jax.planning.rates import Probe, Rates
from vilbert_jax.planning.reading import Sample, Storage
from vilbert_jax.planning.remedies import JobOf, Remedy, find_remedies
from vilbert_jax.sharding import put_batch
from vilbert_jax.training.config import TrainingConfig

_PROBE_SECONDS = 2.0  # of matrix products at the speed of one large product; a step takes about twice that


class Data(NamedTuple):
    """What a plan knows of the data.

    Attributes:
        sample: real lengths.
        storage: files.
        num_examples: of the training split.
        num_evaluated: examples of one evaluation, each counted as often as the model sees it.
    """

    sample: Sample
    storage: Storage
    num_examples: int
    num_evaluated: int


class StepTime(NamedTuple):
    """Seconds of one step, by what they are spent on; None where no rate is known."""

    compute: float | None
    update: float | None
    communication: float | None

    @property
    def total(self) -> float | None:
        """All of it one after the other: nothing is taken to overlap."""
        parts = [self.compute, self.update, self.communication]
        return None if None in parts else math.fsum(part for part in parts if part is not None)


class Measured(NamedTuple):
    """Probes of the device that is here.

    Attributes:
        product: one large matrix product.
        memory: a sweep over memory.
        step: whole steps of the run, on ``step_rows`` rows; None where the state does not fit.
        step_rows: rows of the batch that ``step`` used.
    """

    product: Probe
    memory: Probe
    step: Probe | None
    step_rows: int


class Plan(NamedTuple):
    """Everything that ``words.describe`` tells.

    Attributes:
        job: the run.
        data: what it reads.
        compiled: its step.
        compile_seconds: what that took.
        here: the device that was measured, or would be.
        pretended: whether the step was compiled for parts of a processor that stand for other devices.
        rates: of each device, stated or measured; ``flops`` is what the model reaches.
        stated: those that were stated.
        measured: probes, where something was measured.
        baseline: bytes that the process needs beside the program, where memory is shared with it; else 0.
        step: predicted time.
        remedies: what was tried to make it fit; empty where it fits.
    """

    job: Job
    data: Data
    compiled: Compiled
    compile_seconds: float
    here: Device
    pretended: bool
    rates: Rates
    stated: Rates
    measured: Measured | None
    baseline: int
    step: StepTime
    remedies: list[Remedy]

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of all evaluations: forward passes of padded examples, at the rate of training."""
        work = num_evaluations(self.job.training) * self.data.num_evaluated * self.data.sample.padded_flops
        return work / self.compiled.num_devices / self.rates.flops if self.rates.flops else 0.0

    @property
    def saving(self) -> int:
        """Bytes more than in a step while a checkpoint is written, of devices whose memory is the host's; else 0.

        There is the copy that is written and, where training goes on beside it, the old state: what is being read
        cannot be overwritten by the next step. While the checkpoint of the end is written no step runs.
        """
        if not self.baseline:
            return 0
        state, training = self.compiled.state_bytes, self.job.training
        if training.checkpoint_every < training.total_steps:
            return 2 * state
        return max(0, state - self.compiled.need.temporaries)

    @property
    def need(self) -> int:
        """Bytes of each device at the worst moment, with what the process itself takes."""
        return self.compiled.need.peak + self.baseline + self.saving

    @property
    def fits(self) -> bool | None:
        """Whether a device has that; None where it is not known."""
        return None if self.rates.memory is None else self.need <= self.rates.memory


def make_plan(job_of: JobOf, data_of: Callable[[Job], Data], stated: Rates) -> Plan:
    """Compiles, measures, adds up. Trains nothing; the probes run steps on a state that is thrown away.

    Args:
        job_of: the run with some settings changed; with none, the run that is planned.
        data_of: what a run reads.
        stated: rates that take the place of measured ones.

    Raises:
        InputError: mesh, batch size or optimizer do not fit.
    """
    job, devices = job_of({}), jax.devices()
    data = data_of(job)
    _note(f"compiling the step for {len(devices)} device(s)")
    start = time.perf_counter()
    compiled = compile_job(job, devices)
    compile_seconds = time.perf_counter() - start
    here, pretended = devices[0], len(devices) > 1 and devices[0].platform == "cpu"
    # A processor shares its memory with the process, which keeps much of what compiling took.
    shares = here.platform == "cpu" and not pretended and stated.memory is None
    baseline = resident() if shares else 0
    known = stated if pretended else dataclasses.replace(stated, memory=stated.memory or capacity(here))
    measured = None
    if stated.flops is None or stated.memory_rate is None:
        measured = _measure(job, compiled, here, known)
        known = _complete(known, compiled, measured)
    if len(devices) > 1 and not pretended and stated.link_rate is None:
        known = dataclasses.replace(known, link_rate=measuring.measure_link(devices).rate)
    plan = Plan(
        job, data, compiled, compile_seconds, here, pretended, known, stated, measured,
        baseline, step_time(compiled, known), remedies=[],
    )  # fmt: skip
    if plan.fits is False and known.memory is not None:
        _note("it does not fit: looking for settings that do")
        room = int(known.memory) - (plan.need - compiled.need.peak)
        return plan._replace(remedies=find_remedies(job_of, job, compiled, devices, room, _note))
    return plan


def num_evaluations(training: TrainingConfig) -> int:
    """Evaluations of a run, the one at the end included."""
    return math.ceil(training.total_steps / training.eval_every)


def step_time(compiled: Compiled, rates: Rates) -> StepTime:
    """Seconds of a step from what it does and how fast its devices are."""
    sent = sum(traffic.sent for traffic in compiled.traffic)
    num_devices = compiled.num_devices
    return StepTime(
        compute=rates.flops and compiled.flops / num_devices / rates.flops,
        update=rates.memory_rate and compiled.update_bytes / rates.memory_rate,
        communication=sent / rates.link_rate if rates.link_rate else (None if sent else 0.0),
    )


def _measure(job: Job, compiled: Compiled, here: Device, known: Rates) -> Measured:
    text, dtype = job.model.text, job.model.dtype
    _note("measuring the device: a matrix product, a sweep over memory, a step")
    product = measuring.measure_product(2048, text.width, text.mlp_dim, dtype, here)
    memory = measuring.measure_memory(here)
    parts = job.training.num_microbatches * compiled.num_devices
    affordable = int(_PROBE_SECONDS * product.rate * job.num_rows / compiled.flops)
    rows = max(1, min(job.num_rows // parts, affordable))
    on_one = job.of_rows(rows)
    tried = compiled if rows == job.num_rows else compile_job(on_one, [here])
    if known.memory is not None and tried.need.peak > known.memory:
        return Measured(product, memory, None, rows)
    batch = put_batch(on_one.batch, tried.program.device_mesh)
    with jax.set_mesh(tried.program.device_mesh):
        state = tried.program.init()

        def step() -> None:
            nonlocal state
            state, metrics = tried.executable(state, batch)
            jax.block_until_ready(metrics)

        return Measured(product, memory, Probe(measuring.seconds(step), tried.flops), rows)


def _complete(known: Rates, compiled: Compiled, measured: Measured) -> Rates:
    """Fills in what was measured. The model's rate is that of its step once the update is taken off."""
    memory_rate = known.memory_rate or measured.memory.rate
    if measured.step is None:
        flops = known.flops or measured.product.rate
    else:
        # On one device the whole state is updated, whatever part of it a device of the mesh has.
        whole = compiled.update_bytes * compiled.checkpoint_bytes / compiled.state_bytes
        taken = measured.step.seconds
        flops = known.flops or measured.step.amount / max(taken - whole / memory_rate, 0.2 * taken)
    return dataclasses.replace(known, flops=flops, memory_rate=memory_rate)


def _note(text: str) -> None:
    print(f"plan: {text} ...", file=sys.stderr, flush=True)
