"""What the devices of a run can do, by estimates that choose lengths and tell users how long they will wait."""

import functools
import os
from typing import NamedTuple

from beit_jax.benchmarks import chips
from beit_jax.runtime import distributed, membership

# FLOP/s of training small networks in float32 on a core of a CPU, an estimate: on the machine of docs/own_images.md the
# logs of Nano/4, with 0.09 to 0.1 GFLOP for an image, show 400 to 500 images a second on two cores.
CORE_FLOPS = 25e9
USED_PEAK = 0.25  # fraction of an accelerator's peak; an estimate
UNKNOWN_PEAK = 50e12  # FLOP/s of an accelerator that is not in the table; an estimate
INPUT_S, INPUT_PIXEL_S = 1.3e-3, 15e-9  # seconds of a core that reads an image: for its ops, and for each of its pixels


class Machine(NamedTuple):
    """The devices of a run.

    Attributes:
      kind: "cpu", or what JAX calls an accelerator.
      devices: their number, over all processes.
      cores: of CPUs, over all processes.
      flops: FLOP/s that training is expected to use, over all devices.
    """

    kind: str
    devices: int
    cores: int
    flops: float

    @property
    def is_cpu(self) -> bool:
        """Whether there is no accelerator."""
        return self.kind == "cpu"

    def seconds_per_image(self, flops: float, pixels: float) -> float:
        """How long a training step takes for an image, by an estimate.

        Args:
          flops: FLOPs of the step for an image.
          pixels: number of pixels of the file.
        """
        step, reading = flops / self.flops, (INPUT_S + INPUT_PIXEL_S * pixels) / self.cores
        return step + reading if self.is_cpu else max(step, reading)


@functools.cache  # all processes exchange their cores, once
def find_machine() -> Machine:
    """The devices of this run, the same in all its processes, which must call this together; connects them first."""
    membership.start()  # before JAX uses its devices
    import jax

    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = sum(map(int, distributed.gather("cores", str(cores))))
    if devices[0].platform == "cpu":
        return Machine("cpu", len(devices), cores, cores * CORE_FLOPS)
    kind = devices[0].device_kind
    peak = chips.peak_flops(kind, "bfloat16") or UNKNOWN_PEAK
    return Machine(kind, len(devices), cores, len(devices) * peak * USED_PEAK)
