"""How much memory the programs of a run may take."""

import dataclasses
import json
import socket

from jax.sharding import Mesh

from beit_jax.runtime import distributed, host_memory


@dataclasses.dataclass(frozen=True)
class MemoryLimit:
    """What the programs of a run may take on each device.

    Attributes:
      size: bytes.
      where: what they are, in words.
      on_host: the devices are the host's CPU, and `size` is what was free there when it was read.
    """

    size: int
    where: str
    on_host: bool


def find_limit(mesh: Mesh) -> MemoryLimit | None:
    """The limit, the same in all processes, which must call this together; None where the system does not say.

    Devices that are the CPU of one host share what is free there, also if they belong to several processes.
    """
    devices = mesh.local_devices
    on_host = devices[0].platform == "cpu"
    if on_host:
        size = host_memory.available_bytes()
    else:
        size = min((device.memory_stats() or {}).get("bytes_limit", 0) for device in devices)
    hosts: dict[str, list[tuple[int, int]]] = {}
    for name, count, bytes_there in map(json.loads, gather_limits(len(devices), size)):
        if not bytes_there:
            return None
        hosts.setdefault(name, []).append((bytes_there, count))
    if not on_host:
        kind = mesh.devices.flat[0].device_kind
        return MemoryLimit(min(min(sizes)[0] for sizes in hosts.values()), f"on each {kind}", on_host)
    free, sharing = min(
        (min(sizes)[0] // (count := sum(count for _, count in sizes)), count) for sizes in hosts.values()
    )
    return MemoryLimit(free, f"free for each of {sharing} CPU devices" if sharing > 1 else "free", on_host)


def gather_limits(devices: int, size: int | None) -> list[str]:
    """Host, number of devices and bytes of every process. No process goes on before all have read their bytes."""
    return distributed.gather("memory", json.dumps([socket.gethostname(), devices, size]))
