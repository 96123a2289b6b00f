"""Whether a process is one of several: recipes and launchers' environments, and those that must not be asked."""

import sys
import types

import pytest
from jax._src import cloud_tpu_init, clusters

from vilbert_jax import hosts
from vilbert_jax.errors import InputError
from vilbert_jax.launch import HostsConfig, find_launch

SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "node[3-6]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1",
}  # fmt: skip
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


def test_a_process_by_itself_is_left_alone(monkeypatch):
    assert find_launch(HostsConfig(), {}) is None
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: pytest.fail("called"))
    hosts.join(HostsConfig(num_processes=1))
    assert not hosts.joined()


def test_a_program_for_one_process_refuses_to_be_one_of_several(monkeypatch):
    hosts.require_alone(HostsConfig())
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"one of several \(Slurm: task 2 of 4.*--config.hosts.num_processes=1"):
        hosts.require_alone(HostsConfig())


def test_a_recipe_says_it_all():
    launch = find_launch(HostsConfig(coordinator="node1:8476", num_processes=2, process_id=1), SLURM)
    assert launch is not None
    assert launch.arguments == {
        "coordinator_address": "node1:8476", "num_processes": 2, "process_id": 1,
        "cluster_detection_method": "deactivate",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_processes": 2}, "give all three, or none"),
        ({"coordinator": "node1:8476"}, "give all three, or none"),
        ({"coordinator": "node1:8476", "process_id": 0}, "hosts.num_processes 0"),
        ({"coordinator": "node1", "num_processes": 2, "process_id": 0}, "must be host:port"),
        ({"coordinator": "node1:99999", "num_processes": 2, "process_id": 0}, "must be host:port"),
        ({"coordinator": "node1:8476", "num_processes": 2, "process_id": 2}, "process_id is 2 .* it must be in 0..1"),
        ({"coordinator": "node1:8476", "num_processes": -1, "process_id": 0}, "process_id is 0 with .*=-1"),
        ({"timeout": 0}, "hosts.timeout is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        HostsConfig(**fields)


def test_a_task_of_slurm_has_all_devices_of_its_node():
    launch = find_launch(HostsConfig(), SLURM)
    assert launch is not None
    assert launch.arguments == {"num_processes": 4, "local_device_ids": []}
    assert launch.found == "Slurm: task 2 of 4 on node[3-6]"


def test_several_tasks_of_slurm_on_a_node_share_its_devices_as_jax_does():
    launch = find_launch(HostsConfig(), SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"})
    assert launch is not None
    assert launch.arguments == {"num_processes": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "1"},  # a shell inside an allocation of four: JAX would wait for three others
        {"SLURM_STEP_NODELIST": None},  # a batch script that did not call srun
    ],
)
def test_slurm_with_one_task_is_no_run_of_several(changes):
    environment = {name: value for name, value in (SLURM | changes).items() if value is not None}
    assert find_launch(HostsConfig(), environment) is None


def test_a_recipe_can_keep_a_process_of_a_launcher_alone():
    assert find_launch(HostsConfig(num_processes=1), SLURM) is None


def test_open_mpi():
    launch = find_launch(HostsConfig(), OPEN_MPI)
    assert launch is not None
    assert launch.arguments == {}
    alone = find_launch(HostsConfig(), OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"})
    assert alone is not None
    assert alone.arguments == {"local_device_ids": []}
    assert find_launch(HostsConfig(), OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}) is None
    silent = {name: value for name, value in OPEN_MPI.items() if "orte" not in name}
    with pytest.raises(InputError, match=r"process_id=\$OMPI_COMM_WORLD_RANK"):
        find_launch(HostsConfig(), silent)


@pytest.mark.parametrize(("names", "found"), [("a,b,c,d", "a TPU pod of 4 hosts"), ("a", None)])
def test_tpu_pods(monkeypatch, names, found):
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", names)
    launch = find_launch(HostsConfig(), {})
    assert (launch and launch.found) == found


def test_pods_of_no_indexed_job_are_alone():
    assert find_launch(HostsConfig(), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None


def test_pods_without_the_kubernetes_package_must_be_told(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pod 3 of an indexed Kubernetes job.*--config.hosts.coordinator=HOST:PORT"):
        find_launch(HostsConfig(), POD | {"JOB_COMPLETION_INDEX": "3"})
    assert find_launch(HostsConfig(), POD) is None
    assert "runs alone; if there are others" in capfd.readouterr().err


def test_pods_with_it_are_counted_by_the_api(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: types.ModuleType(name).__spec__ or name)
    monkeypatch.setattr(clusters.K8sCluster, "is_env_present", lambda: True)
    monkeypatch.setattr(clusters.K8sCluster, "get_process_count", lambda: 4)
    launch = find_launch(HostsConfig(), POD)
    assert launch is not None
    assert launch == ("Kubernetes: pod 0 of 4", {})
    monkeypatch.setattr(clusters.K8sCluster, "get_process_count", lambda: 1)
    assert find_launch(HostsConfig(), POD) is None

    def forbidden():
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden")

    monkeypatch.setattr(clusters.K8sCluster, "get_process_count", forbidden)
    with pytest.raises(InputError, match="403 - Forbidden.*--config.hosts.num_processes=N"):
        find_launch(HostsConfig(), POD)
