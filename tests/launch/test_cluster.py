import os
import time

import jax
import pytest

from kgpt_jax.config import UserError
from launch import stage
from launch.cluster import arguments
from launch.stage import environment

TABLE = {
    "nothing": ({}, None),
    "one process": ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    "plain": (
        {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3", "JAX_COORDINATOR_ADDRESS": "10.0.0.1:99"},
        ("10.0.0.1:99", 4, 3),
    ),
    "Kubernetes": (
        {"JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1", "JAX_COORDINATOR_ADDRESS": "kgpt-0.kgpt"},
        ("kgpt-0.kgpt:8476", 2, 1),
    ),
    "torchrun, which listens at its port itself": (
        {
            "WORLD_SIZE": "2",
            "RANK": "1",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "29500",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        },
        ("a:29501", 2, 1),
    ),
    "torchrun": (
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "29500"},
        ("a:29500", 2, 0),
    ),
    "torchrun, a GPU each": (
        {
            "WORLD_SIZE": "4",
            "RANK": "3",
            "LOCAL_WORLD_SIZE": "2",
            "LOCAL_RANK": "1",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "29500",
        },
        ("a:29500", 4, 3, [1]),
    ),
    "torchrun, a node's GPUs together": (
        {
            "WORLD_SIZE": "2",
            "RANK": "1",
            "LOCAL_WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "a",
            "MASTER_PORT": "29500",
        },
        ("a:29500", 2, 1, []),
    ),
    "SkyPilot": (
        {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6\n"},
        ("10.0.0.5:8476", 2, 1),
    ),
    "SLURM": (
        {
            "SLURM_JOB_ID": "100",
            "SLURM_NTASKS": "8",
            "SLURM_PROCID": "5",
            "SLURM_LOCALID": "1",
            "SLURM_STEP_NODELIST": "gpu[04-05]",
        },
        (None, 8, 5, [1]),
    ),
    "SLURM, a node's GPUs together": (
        {
            "SLURM_JOB_ID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "1",
            "SLURM_LOCALID": "0",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_STEP_NODELIST": "a,b",
        },
        (None, 2, 1, []),
    ),
    "SLURM, a task on each of two nodes": (
        {
            "SLURM_JOB_ID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "1",
            "SLURM_LOCALID": "0",
            "SLURM_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": "a,b",
        },
        (None, 2, 1, []),
    ),
    "SLURM, GPUs for each task": (
        {
            "SLURM_JOB_ID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "1",
            "SLURM_LOCALID": "1",
            "SLURM_GPUS_PER_TASK": "1",
            "SLURM_STEP_NODELIST": "a",
        },
        (None, 2, 1, []),
    ),
    "plain variables within a SLURM job": (
        {
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "1",
            "JAX_COORDINATOR_ADDRESS": "127.0.0.1:99",
            "SLURM_JOB_ID": "0",
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NODELIST": "a",
        },
        ("127.0.0.1:99", 2, 1),
    ),
    "OpenMPI over IPv6": (
        {
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp6://[fe80::1,fe80::2]:34911",
        },
        ("[fe80::1]:8476", 2, 1),
    ),
    "OpenMPI": (
        {
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_RANK": "2",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
        },
        (None, 4, 2, [0]),
    ),
    "OpenMPI, a node's GPUs together": (
        {
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
        },
        (None, 2, 1, []),
    ),
    "OpenMPI 5, which does not say where it began": (
        {
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "JAX_COORDINATOR_ADDRESS": "a",
        },
        ("a:8476", 2, 1, [0]),
    ),
    "a variable of one's own comes first": (
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "JAX_COORDINATOR_ADDRESS": "b:1"},
        ("b:1", 2, 0),
    ),
}
NAMES = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
DETECTED = {  # a host that JAX finds by itself, and the variable of another job
    "SLURM": ("gpu04", {"SLURM_JOB_ID": "101"}),
    "SLURM, a node's GPUs together": ("a", {"SLURM_JOB_ID": "101"}),
    "SLURM, a task on each of two nodes": ("a", {"SLURM_JOB_ID": "101"}),
    "SLURM, GPUs for each task": ("a", {"SLURM_JOB_ID": "101"}),
    "OpenMPI": ("10.96.0.1", {"OMPI_MCA_orte_hnp_uri": "1531580416.0;tcp://10.96.0.1:34911"}),
    "OpenMPI, a node's GPUs together": (
        "10.96.0.1",
        {"OMPI_MCA_orte_hnp_uri": "1531580416.0;tcp://10.96.0.1:34911"},
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_cluster_says_where_a_process_is(name):
    environ, expected = TABLE[name]
    if expected is not None:
        expected = dict(zip(NAMES, expected))
        if expected["coordinator_address"]:
            expected["cluster_detection_method"] = "deactivate"
        else:
            del expected["coordinator_address"]
    assert arguments(environ) == expected


@pytest.mark.parametrize("name", [name for name, (_, place) in TABLE.items() if place and not place[0]])
def test_jax_finds_the_address_that_is_left_to_it(name, monkeypatch):
    """With a port of each job's own, so that jobs which share a node do not meet."""
    from jax._src.clusters import ClusterEnv

    (environ, expected), (host, another_job), ports = TABLE[name], DETECTED[name], set()
    before = dict(os.environ)
    for changed in ({}, another_job):
        monkeypatch.setattr(os, "environ", before | environ | changed)
        given = [arguments(environ).get(argument) for argument in NAMES]
        address, *rest = ClusterEnv.auto_detect_unset_distributed_params(*given, None, 5)
        assert address.startswith(f"{host}:") and tuple(rest) == expected[1:]
        ports.add(address)
    assert len(ports) == 2


@pytest.mark.parametrize(
    "environ, complaint",
    [
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two': give a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 of WORLD_SIZE 2 processes: give 0 to 1"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "nothing gives the address of process 0"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "nothing gives the address of process 0"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "set JAX_COORDINATOR_ADDRESS=host:port"),
    ],
)
def test_a_cluster_that_says_too_little_is_named(environ, complaint):
    with pytest.raises(UserError, match=complaint):
        arguments(environ)


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_a_share_of_memory_that_is_set_stays(name, monkeypatch):
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert environment("gpu") == {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".9"}
    monkeypatch.setenv(name, ".5")
    assert environment("gpu") == {"JAX_PLATFORMS": "cuda"}


def test_a_process_says_that_it_waits_for_the_others(monkeypatch, capfd):
    def in_vain(**_):
        time.sleep(0.5)
        raise RuntimeError("DEADLINE_EXCEEDED")

    monkeypatch.setattr(stage, "PATIENCE", 0.01)
    monkeypatch.setattr(jax.distributed, "initialize", in_vain)
    place = {"num_processes": 2, "process_id": 1}
    for address, expected in (
        ({"coordinator_address": "n1:1"}, "n1:1"),
        ({}, "the address that JAX detects"),
    ):
        with pytest.raises(SystemExit, match="2"):
            stage.begin("pretrain", [], "cpu", place | address)
        waits, failed = capfd.readouterr().err.splitlines()
        assert waits == f"process 1 of 2 waits for the others, up to 300 s: all connect to {expected}"
        assert failed.startswith("error: cannot join the other processes") and "DEADLINE_EXCEEDED" in failed
