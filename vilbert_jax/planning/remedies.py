"""Which setting makes a run fit: each candidate is compiled, none is guessed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vilbert_jax.errors import InputError
from vilbert_jax.planning.job import Compiled, Job, compile_job
from vilbert_jax.planning.memory import Device
from vilbert_jax.sharding import num_batch_shards

Settings = Mapping[str, Any]  # keys of the recipe, dotted, and their values
JobOf = Callable[[Settings], Job]

_SAME = "the same gradient; the parts run one after the other"
_AGAIN = {  # of ``config.remat``, from little to much that is computed again
    "light": "the same gradient; scores, norms and activations are computed twice",
    "full": "the same gradient; layers are computed twice, a forward pass more",
}
_SPREAD = "the same result; parameters travel between devices in every step"
_HALF = "activations keep 8 bits of precision"
_SMALLER = "another run: fewer examples a step"


class Remedy(NamedTuple):
    """Settings that were tried.

    Attributes:
        settings: keys of the recipe, dotted, and their values.
        price: what they cost, in words.
        peak: bytes that a device then needs; None where the run refuses them.
        fits: whether a device has these.
    """

    settings: Settings
    price: str
    peak: int | None
    fits: bool

    @property
    def typed(self) -> str:
        """As a user types it."""
        return " ".join(f"--config.{key}={value}" for key, value in self.settings.items())


def find_remedies(
    job_of: JobOf, job: Job, compiled: Compiled, devices: Sequence[Device], room: int, note: Callable[[str], None]
) -> list[Remedy]:
    """Tries one setting after the other, the cheapest first, until one fits.

    Args:
        job_of: the same run with other settings.
        job: the run that does not fit.
        compiled: its step.
        devices: to compile for.
        room: bytes that a device has for the program.
        note: told what is being tried.

    Returns:
        What was tried; only the last one fits, or none does.
    """
    tried: list[Remedy] = []
    for settings, price in _candidates(job, compiled, room):
        remedy = Remedy(settings, price, None, fits=False)
        note(f"compiling with {remedy.typed}")
        try:
            peak = compile_job(job_of(settings), devices).need.peak
            remedy = remedy._replace(peak=peak, fits=peak <= room)
        except InputError:
            pass
        tried.append(remedy)
        if remedy.fits:
            break
    return tried


def _candidates(job: Job, compiled: Compiled, room: int) -> Iterator[tuple[Settings, str]]:
    shards, done = num_batch_shards(compiled.program.device_mesh), job.training.num_microbatches
    parts = [done * n for n in _parts(compiled, room, job.num_rows // (shards * done))]
    yield from (({"num_microbatches": number}, _SAME) for number in parts)
    most = {"num_microbatches": parts[-1]} if parts else {}
    more_often = {"none": ("light", "full"), "light": ("full",), "full": ()}[job.training.remat]
    yield from (({"remat": remat} | most, _AGAIN[remat]) for remat in more_often)

    shape = compiled.program.device_mesh.shape
    if shape["data"] > 1:
        spread = {"mesh.data": 1, "mesh.fsdp": shape["data"] * shape["fsdp"]}
        yield spread, _SPREAD
        if most:
            yield spread | most, _SPREAD
    if job.model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}, _HALF
        if most:
            yield {"model.dtype": "bfloat16"} | most, _HALF
    batch_size = job.training.batch_size
    while (batch_size := batch_size // 2) >= shards * done and compiled.need.arguments < room:
        yield {"batch_size": batch_size}, _SMALLER


def _parts(compiled: Compiled, room: int, most: int) -> list[int]:
    """Numbers of parts to try: the least that may do, and the next two; the most there is where none may.

    What is temporary shrinks with the rows of a part, but for the sum of the gradients.
    """
    need = compiled.need
    fixed = need.peak - need.temporaries + compiled.param_bytes
    powers = [2**k for k in range(1, 16) if most % 2**k == 0]
    hopeful = [n for n in powers if fixed + need.temporaries / n <= room]
    return hopeful[:3] or (powers[-1:] if need.arguments < room else [])
