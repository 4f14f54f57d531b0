import os

import pytest

from beit_jax.errors import UserError
from beit_jax.runtime import cluster, coordinator_address, distributed, membership


@pytest.fixture
def initialized(monkeypatch):
    """A function that sets variables and starts; it returns what JAX is asked to do, or None."""
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **settings: asked.append(settings))
    monkeypatch.setattr(coordinator_address, "wait_for_listener", lambda *_: None)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: False)
    monkeypatch.setattr(distributed, "joined", False)
    prefixes = ("BEIT_JAX_", "SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "KUBERNETES_", "JOB_", "CUDA_")
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        monkeypatch.delenv(name)

    def start(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        membership.start()
        return asked[0] if asked else None

    return start


SLURM = dict(SLURM_JOB_ID="17", SLURM_STEP_NODELIST="node[1-2]", SLURM_PROCID="0", SLURM_LOCALID="0")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (dict(BEIT_JAX_PROCESS_COUNT="1"), None),
        (
            dict(BEIT_JAX_COORDINATOR="10.0.0.1:99", BEIT_JAX_PROCESS_COUNT="2", BEIT_JAX_PROCESS_INDEX="1"),
            dict(
                coordinator_address="10.0.0.1:99",
                num_processes=2,
                process_id=1,
                cluster_detection_method="deactivate",
            ),
        ),
        (dict(SLURM_JOB_ID="17", SLURM_NTASKS="8"), None),  # in a job, but not in a step of it
        (SLURM | dict(SLURM_NTASKS="1", SLURM_STEP_NUM_NODES="1"), None),
        # The only process of a node uses all of its GPUs; one of several uses the one that JAX gives it.
        (
            SLURM | dict(SLURM_NTASKS="2", SLURM_STEP_NUM_NODES="2"),
            dict(cluster_detection_method="slurm", local_device_ids=[]),
        ),
        (
            SLURM | dict(SLURM_NTASKS="16", SLURM_STEP_NUM_NODES="2"),
            dict(cluster_detection_method="slurm", local_device_ids=None),
        ),
        (
            SLURM | dict(SLURM_NTASKS="16", SLURM_STEP_NUM_NODES="2", CUDA_VISIBLE_DEVICES="3"),
            dict(cluster_detection_method="slurm", local_device_ids=[]),
        ),
        (
            dict(OMPI_COMM_WORLD_SIZE="4", OMPI_COMM_WORLD_LOCAL_SIZE="2"),
            dict(cluster_detection_method="ompi", local_device_ids=None),
        ),
        (dict(KUBERNETES_SERVICE_HOST="10.0.0.2", JOB_COMPLETION_INDEX="0"), dict(cluster_detection_method="k8s")),
        (dict(TPU_WORKER_HOSTNAMES="localhost", KUBERNETES_SERVICE_HOST="10.0.0.2", JOB_COMPLETION_INDEX="0"), None),
        (dict(TPU_WORKER_HOSTNAMES="a,b"), {}),
        (dict(TPU_WORKER_HOSTNAMES="a", MEGASCALE_NUM_SLICES="2"), {}),
    ],
)
def test_the_cluster_that_jax_asks(initialized, variables, expected):
    asked = initialized(**variables)
    limits = {
        "initialization_timeout": cluster.START_TIMEOUT_S,
        "heartbeat_timeout_seconds": membership.NO_HEARTBEATS_S,
    }
    assert asked == (None if expected is None else limits | expected)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (dict(BEIT_JAX_COORDINATOR="a:1"), "BEIT_JAX_PROCESS_COUNT and BEIT_JAX_PROCESS_INDEX not set"),
        (
            dict(BEIT_JAX_COORDINATOR="a:1", BEIT_JAX_PROCESS_COUNT="2", BEIT_JAX_PROCESS_INDEX="2"),
            "an index below the number",
        ),
        (dict(BEIT_JAX_COORDINATOR="a:x", BEIT_JAX_PROCESS_COUNT="2", BEIT_JAX_PROCESS_INDEX="1"), "port from 1 to"),
        (dict(BEIT_JAX_COORDINATOR="a:1", BEIT_JAX_PROCESS_COUNT="x", BEIT_JAX_PROCESS_INDEX="2"), "whole number"),
    ],
)
def test_wrong_variables(initialized, variables, message):
    with pytest.raises(UserError, match=message):
        initialized(**variables)


def test_a_single_process_waits_for_nobody():
    assert (distributed.process_index(), distributed.process_count(), distributed.is_main()) == (0, 1, True)
    distributed.barrier("alone")
    assert distributed.any_process(True) and not distributed.any_process(False)
    assert distributed.broadcast_from_main("text") == "text"
    membership.finish()
