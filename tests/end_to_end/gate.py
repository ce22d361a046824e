"""A gate between the app and its storage: one chosen request is stopped there, so that a test can act before it."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable

from tests.end_to_end.bench import PATIENCE, Bench

_ADDRESS = re.compile(r"127\.0\.0\.1:(\d+)")


class Gate:
    """Forwards whatever comes to ports of its own to the storage behind it."""

    def __init__(self, connection_string: str) -> None:
        self._wanted: bytes | None = None
        self._stopped, self._open = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self.connection_string = _ADDRESS.sub(lambda found: self._listen(int(found[1])), connection_string)

    def stop_at(self, pattern: bytes) -> None:
        """Stop the next request whose head holds a match of the pattern."""
        self._stopped.clear()
        self._open.clear()
        self._wanted = pattern

    def wait(self) -> None:
        """Return when the request stands at the gate."""
        assert self._stopped.wait(PATIENCE), "the request did not come"

    def go_on(self) -> None:
        """Let the request through."""
        self._open.set()

    def close(self) -> None:
        """Close every port and connection."""
        self._open.set()
        for each in self._sockets:
            each.close()

    def _listen(self, port: int) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        _in_background(self._accept, listener, port)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def _accept(self, listener: socket.socket, port: int) -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            self._sockets += [near, far]
            _in_background(self._forward, near, far, self._check)
            _in_background(self._forward, far, near, None)

    def _forward(self, source: socket.socket, target: socket.socket, look: Callable[[bytes], None] | None) -> None:
        while data := source.recv(1024 * 1024):
            if look:
                look(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def _check(self, data: bytes) -> None:
        if self._wanted is not None and re.search(self._wanted, data):
            self._wanted = None
            self._stopped.set()
            self._open.wait(PATIENCE)


def _in_background[**P](work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    def until_closed() -> None:
        with contextlib.suppress(OSError):  # one of the two sides has closed the connection
            work(*args, **kwargs)

    threading.Thread(target=until_closed, daemon=True).start()


class GatedBench(Bench):
    """A stack whose app reaches its storage through a gate."""

    gate: Gate

    def _environment(self) -> dict[str, str]:
        self.gate = Gate(self.azurite.connection_string)
        return super()._environment() | {"BatchStorage": self.gate.connection_string}

    def stop(self) -> None:
        """End all, the gate last."""
        super().stop()
        self.gate.close()
