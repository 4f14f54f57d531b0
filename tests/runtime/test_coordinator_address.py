"""The address at which processes meet: wrong ones, and a port that another program has."""

import socket
import threading
import time

import pytest

from beit_jax.errors import UserError
from beit_jax.runtime import coordinator_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.1:99", ("10.0.0.1", 99)), ("host.a.b:65535", ("host.a.b", 65535)), ("[::1]:80", ("::1", 80))],
)
def test_addresses(address, expected):
    assert coordinator_address.parse("NAME", address) == expected


@pytest.mark.parametrize(
    "address", ["host", ":99", "host:", "host:x", "host:0", "host:65536", "::1:80", "[]:80", "h:-1"]
)
def test_what_is_no_address(address):
    with pytest.raises(UserError, match=r"NAME=.*; expected HOST:PORT, with a port from 1 to 65535"):
        coordinator_address.parse("NAME", address)


def test_a_port_in_use(monkeypatch):
    monkeypatch.setattr(coordinator_address, "FREE_TIMEOUT_S", 0.3)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}, .* in use by another program.* \(Address already in use\)"):
            coordinator_address.wait_until_free(port)
    coordinator_address.wait_until_free(port)


def test_a_service_that_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        assert not coordinator_address.answers(address)  # as one whose process is being killed
    assert not coordinator_address.answers(address)


def test_a_process_0_that_starts_late(monkeypatch, capsys):
    monkeypatch.setattr(coordinator_address, "TELL_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    servers = []
    late = threading.Timer(1.0, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
    late.start()
    coordinator_address.wait_for_listener("NAME", "127.0.0.1", port, 20)
    late.join()
    servers[0].close()
    told = f"waiting up to 20 s: process 0 cannot be reached at NAME=127.0.0.1:{port} (Connection refused)\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(("host", "reason"), [("127.0.0.1", "Connection refused"), ("no.such.host.invalid", "")])
def test_a_process_0_that_never_starts(host, reason):
    start = time.monotonic()
    with pytest.raises(UserError, match=rf"process 0 cannot be reached at NAME={host}:1 \({reason}.*\) after"):
        coordinator_address.wait_for_listener("NAME", host, 1, 0.3)
    assert time.monotonic() - start < 30
