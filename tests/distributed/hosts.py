"""Several hosts made of one machine: network namespaces with addresses and names of their own, and a switch between.

It needs root, Linux' `ip` and `unshare` (Debian's packages iproute2 and util-linux), and /dev/net/tun. The switch is a
thread here, because not every kernel has one that can delay and lose packets (netem).
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PREFIX = "10.77.0."
HERE = f"{PREFIX}254"
MTU = 65_000  # fewer frames for the switch
# Runs a program as a host: with its name, and with the names of all hosts.
BECOME = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
TUN, TUNSETIFF, TAP_WITHOUT_HEADER = "/dev/net/tun", 0x400454CA, 0x1002  # of Linux' if_tun.h


class Link(NamedTuple):
    """How a host is connected: whether nothing arrives, the delay of each packet, and the fraction that is lost."""

    is_cut: bool = False
    seconds: float = 0.0
    loss: float = 0.0


class Switch(threading.Thread):
    """Passes frames on between network devices.

    Attributes:
      links: of the devices.
    """

    def __init__(self, devices: Sequence[int]):
        """
        Args:
          devices: file descriptors, which do not block.
        """
        super().__init__(daemon=True)
        self.links = [Link() for _ in devices]
        self._devices, self._addresses, self._dice = devices, {}, random.Random(0)
        self._waiting, self._numbers, self._stopped = [], itertools.count(), threading.Event()

    def stop(self) -> None:
        """Returns once no frame is passed on any more."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """See the class."""
        while not self._stopped.is_set():
            until = self._waiting[0][0] - time.monotonic() if self._waiting else 0.1
            for device in select.select(self._devices, [], [], min(max(until, 0), 0.1))[0]:
                self._take(self._devices.index(device), os.read(device, MTU + 100))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, target, frame = heapq.heappop(self._waiting)
                with contextlib.suppress(OSError):  # a full device loses it
                    os.write(self._devices[target], frame)

    def _take(self, source: int, frame: bytes) -> None:
        self._addresses[frame[6:12]] = source
        known = self._addresses.get(frame[:6])
        everyone = [index for index in range(len(self._devices)) if index != source]
        for target in everyone if known is None else [known]:
            ends = self.links[source], self.links[target]
            lost = any(link.is_cut or self._dice.random() < link.loss for link in ends)
            if target != source and not lost:
                due = time.monotonic() + sum(link.seconds for link in ends)
                heapq.heappush(self._waiting, (due, next(self._numbers), target, frame))


class Hosts:
    """Hosts `host0`, `host1`, ...

    Attributes:
      addresses: of the hosts.
      links: of the hosts, and of this machine; a test may replace them.
    """

    def __init__(self, namespaces: Sequence[str], links: list[Link], table: Path):
        self.addresses = [f"{PREFIX}{index + 1}" for index in range(len(namespaces))]
        self.links, self._namespaces, self._table = links, namespaces, table
        lines = [f"{address} {host(index)}" for index, address in enumerate(self.addresses)]
        table.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def command(self, index: int, command: Sequence[str]) -> list[str]:
        """What runs a command on a host."""
        inside = ["unshare", "--uts", "--mount", "sh", "-c", BECOME, "sh", host(index), str(self._table), *command]
        return ["ip", "netns", "exec", self._namespaces[index], *inside]


def host(index: int) -> str:
    """The name of a host."""
    return f"host{index}"


def can_make_hosts() -> bool:
    """Whether this user may make network namespaces and devices here."""
    if not (shutil.which("ip") and shutil.which("unshare") and os.access(TUN, os.W_OK)):
        return False
    return not subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True).returncode


@contextlib.contextmanager
def made(count: int, folder: Path) -> Iterator[Hosts]:
    """Makes hosts, and removes them. This machine has the address `HERE` among theirs, and the last link."""
    names = [f"beit{os.getpid()}h{index}" for index in range(count)]
    with contextlib.ExitStack() as stack:
        devices = []
        for index, name in enumerate(names):
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "del", name)
            devices.append(_make_device(name, stack))
            _run("ip", "link", "set", name, "netns", name, "name", "eth0", "mtu", str(MTU))
            _run("ip", "-n", name, "address", "add", f"{PREFIX}{index + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")
        devices.append(_make_device(f"beit{os.getpid()}", stack))
        _run("ip", "address", "add", f"{HERE}/24", "dev", f"beit{os.getpid()}")
        _run("ip", "link", "set", f"beit{os.getpid()}", "mtu", str(MTU), "up")
        switch = Switch(devices)
        switch.start()
        stack.callback(switch.stop)
        yield Hosts(names, switch.links, folder / "hosts")


def _make_device(name: str, stack: contextlib.ExitStack) -> int:
    """A network device, which is gone when its file descriptor is closed."""
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    stack.callback(os.close, device)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_WITHOUT_HEADER))
    return device


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
