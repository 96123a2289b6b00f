"""Of how many processes a run is: from the recipe, or from what a launcher says in the environment."""

import dataclasses
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from vilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostsConfig:
    """The processes of a run. All empty: as the environment says, which on a machine by itself is one.

    ``num_processes=1`` by itself keeps a process alone, whatever the environment says.

    Attributes:
        coordinator: host:port of process 0, as the others reach it.
        num_processes: of the run; 0: not said.
        process_id: of this one, from 0; -1: not said.
        timeout: seconds within which all processes must have started.
    """

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1
    timeout: int = 300

    def __post_init__(self):
        if self.timeout < 1:
            raise InputError(f"hosts.timeout is {self.timeout}; it must be at least 1 second.")
        if self.num_processes == 1 and not self.coordinator and self.process_id in (-1, 0):
            return
        given = [bool(self.coordinator), self.num_processes != 0, self.process_id != -1]
        if any(given) and not all(given):
            raise InputError(
                f"hosts.coordinator is {self.coordinator!r}, hosts.num_processes {self.num_processes} and "
                f"hosts.process_id {self.process_id}: give all three, or none of them (then Slurm, Open MPI, "
                "Kubernetes or a TPU pod says them)."
            )
        if not any(given):
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"hosts.coordinator is {self.coordinator!r}; it must be host:port, such as node1:8476.")
        if not 0 <= self.process_id < self.num_processes:
            raise InputError(
                f"hosts.process_id is {self.process_id} with hosts.num_processes={self.num_processes}: it must be in "
                f"0..{max(self.num_processes, 1) - 1}, another one for each process."
            )


class Launch(NamedTuple):
    """How ``jax.distributed.initialize`` is to be called.

    Attributes:
        found: what said so, for people.
        arguments: those that decide; JAX detects what is missing.
    """

    found: str
    arguments: dict[str, Any]


def find_launch(config: HostsConfig, environment: Mapping[str, str]) -> Launch | None:
    """Decides whether this process is one of several; None if it is alone.

    Slurm (``srun``), Open MPI 4 (``mpirun``) and Kubernetes jobs of more than one process, and TPU pods, are recognised
    as JAX does. What JAX would wait for in vain, it is not asked to: jobs of one task, a shell inside an allocation,
    pods that belong to no indexed job.

    Raises:
        InputError: the environment tells that there are others, but not how to find them.
    """
    if config.num_processes > 1:
        arguments = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
            # Else JAX asks the launcher, where there is one, which devices belong to this process.
            "cluster_detection_method": "deactivate",
        }
        return Launch(f"config.hosts: process {config.process_id} of {config.num_processes}", arguments)
    if config.num_processes == 1:
        return None
    return _of_slurm(environment) or _of_open_mpi(environment) or _of_tpu() or _of_kubernetes(environment)


def _of_slurm(environment: Mapping[str, str]) -> Launch | None:
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environment for name in needed):  # not started by srun
        return None
    # In a shell inside an allocation (srun --pty) the step has one task, whatever the job has.
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"]))
    if tasks == 1:
        return None
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", environment.get("SLURM_TASKS_PER_NODE", ""))
    return Launch(
        f"Slurm: task {environment['SLURM_PROCID']} of {tasks} on {environment['SLURM_STEP_NODELIST']}",
        {"num_processes": tasks, **_devices(alone=per_node.partition("(")[0] == "1")},
    )


def _of_open_mpi(environment: Mapping[str, str]) -> Launch | None:
    size = environment.get("OMPI_COMM_WORLD_SIZE", "1")
    if size == "1":
        return None
    rank = environment.get("OMPI_COMM_WORLD_RANK", "?")
    if "OMPI_MCA_orte_hnp_uri" not in environment:
        raise InputError(
            f"this is process {rank} of {size} of an Open MPI that does not tell where process 0 is (version 5 does "
            "not): give --config.hosts.coordinator=HOST:PORT --config.hosts.num_processes=$OMPI_COMM_WORLD_SIZE "
            "--config.hosts.process_id=$OMPI_COMM_WORLD_RANK."
        )
    return Launch(
        f"Open MPI: process {rank} of {size}", _devices(alone=environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1")
    )


def _of_tpu() -> Launch | None:
    # JAX has no public name for these.
    from jax._src import cloud_tpu_init
    from jax._src.clusters import GceTpuCluster, GkeTpuCluster

    if not cloud_tpu_init.running_in_cloud_tpu_vm:
        return None
    pod = next((kind for kind in (GkeTpuCluster, GceTpuCluster) if kind.is_env_present()), None)
    count = 1 if pod is None else pod.get_process_count()
    return Launch(f"a TPU pod of {count} hosts", {}) if count > 1 else None


def _of_kubernetes(environment: Mapping[str, str]) -> Launch | None:
    index = environment.get("JOB_COMPLETION_INDEX")
    if "KUBERNETES_SERVICE_HOST" not in environment or index is None:  # only indexed jobs can be one run
        return None
    by_hand = (
        "give --config.hosts.coordinator=HOST:PORT (of pod 0) --config.hosts.num_processes=N "
        "--config.hosts.process_id=$JOB_COMPLETION_INDEX, as docs/scaling.md shows, or, where each pod is a run of its "
        "own, --config.hosts.num_processes=1"
    )
    if importlib.util.find_spec("kubernetes") is None:  # without it JAX cannot ask how many pods there are
        if index != "0":
            raise InputError(f"this is pod {index} of an indexed Kubernetes job; nothing says of how many: {by_hand}.")
        print(f"warning: this pod of an indexed job runs alone; if there are others, {by_hand}.", file=sys.stderr)
        return None
    from jax._src.clusters import K8sCluster

    try:
        count = K8sCluster.get_process_count() if K8sCluster.is_env_present() else 1
    except Exception as error:  # of the API, of which a pod may not be allowed to ask anything
        raise InputError(f"the Kubernetes API does not say how many pods this job has ({error}): {by_hand}.") from error
    return Launch(f"Kubernetes: pod {index} of {count}", {}) if count > 1 else None


def _devices(*, alone: bool) -> dict[str, Any]:
    """All devices to a process that is alone on its machine; JAX would give each process of a launcher just one."""
    return {"local_device_ids": []} if alone else {}
