"""`make run` listens on the well-known ports, and on others where somebody else does already."""

import socket

from devkit.azurite import Azurite
from devkit.ports import free_or_any


def test_wanted_ports_are_taken_all_together_or_not_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as another:
        taken, left = other.getsockname()[1], another.getsockname()[1]
        another.close()
        assert free_or_any((left,)) == (left,)
        assert free_or_any((taken,)) == (0,)
        assert free_or_any((left, taken)) == (0, 0)


def test_azurite_listens_on_the_ports_that_it_is_given() -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    with Azurite(ports=ports) as azurite:
        for service, port in zip(("Blob", "Queue", "Table"), ports, strict=True):
            assert f"{service}Endpoint=http://127.0.0.1:{port}/" in azurite.connection_string
