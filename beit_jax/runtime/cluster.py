"""How the processes of a run are to find each other: our variables, or those of a cluster, which JAX reads."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from beit_jax.errors import UserError
from beit_jax.runtime import coordinator_address

VARIABLES = ("BEIT_JAX_COORDINATOR", "BEIT_JAX_PROCESS_COUNT", "BEIT_JAX_PROCESS_INDEX")
START_TIMEOUT_S = 600  # for the last process to start


def find_settings() -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None for a single process.

    Beside them `may_be_alone`, where JAX has to find out. With `VARIABLES` it waits until process 0 listens.

    Raises:
      UserError: the variables are wrong, or process 0 does not listen in time.
    """
    return _explicit() or _detected()


def _explicit() -> dict[str, Any] | None:
    """What `VARIABLES` say; None where none of them is set."""
    values = [os.environ.get(name, "") for name in VARIABLES]
    if not any(values):
        return None
    address, *numbers = values
    missing = [name for name, value in zip(VARIABLES, values) if not value]
    if missing and values[1] != "1":
        raise UserError(f"{' and '.join(missing)} not set; expected all of {', '.join(VARIABLES)}, or none")
    if values[1] == "1":
        return {"num_processes": 1}
    for name, value in zip(VARIABLES[1:], numbers):
        if not value.isdecimal():
            raise UserError(f"{name}={value!r}; expected a whole number")
    processes, this = map(int, numbers)
    if not this < processes:
        raise UserError(f"{VARIABLES[1]}={processes}, {VARIABLES[2]}={this}; expected an index below the number")
    host, port = coordinator_address.parse(VARIABLES[0], address)
    if this == 0:
        coordinator_address.wait_until_free(port)
    else:
        coordinator_address.wait_for_listener(VARIABLES[0], host, port, START_TIMEOUT_S)
    return dict(
        coordinator_address=address, num_processes=processes, process_id=this, cluster_detection_method="deactivate"
    )


def _detected() -> dict[str, Any] | None:
    """Arguments for JAX, which finds the rest in the cluster's variables; None for a single process."""
    this = os.environ
    hosts = this.get("TPU_PROCESS_ADDRESSES", this.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None or "MEGASCALE_NUM_SLICES" in this:
        return {} if "," in (hosts or "") or int(this.get("MEGASCALE_NUM_SLICES", "1")) > 1 else None
    if "SLURM_STEP_NODELIST" in this and int(this.get("SLURM_NTASKS", "1")) > 1:
        one_per_node = this.get("SLURM_STEP_NUM_NODES") == this["SLURM_NTASKS"]
        return dict(cluster_detection_method="slurm", local_device_ids=_devices(one_per_node))
    if int(this.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        one_per_node = this.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
        return dict(cluster_detection_method="ompi", local_device_ids=_devices(one_per_node))
    if "KUBERNETES_SERVICE_HOST" in this and "JOB_COMPLETION_INDEX" in this:
        return dict(cluster_detection_method="k8s")
    if _on_tpu_vm():
        return {"may_be_alone": True}
    return None


def _devices(one_per_node: bool) -> list[int] | None:
    """None: JAX gives each process of a node one of its GPUs. An empty list: the process uses all that it sees."""
    return [] if one_per_node or os.environ.get("CUDA_VISIBLE_DEVICES", "").isdecimal() else None


def _on_tpu_vm() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    devices = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    return devices and (not platforms or "tpu" in platforms) and importlib.util.find_spec("libtpu") is not None
