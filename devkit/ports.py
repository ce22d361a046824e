"""The ports of 127.0.0.1 where Storage Explorer looks for an emulated storage account, and bookmarks for a host."""

import socket

STORAGE = (10000, 10001, 10002)
"""Blobs, queues and tables: the storage emulator's default, `UseDevelopmentStorage=true`."""
HOST = (7071,)
"""What `func start` listens on."""


def free_or_any(wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the wanted ports if nothing listens on any of them, else 0 for each: whatever port is free."""
    return (0,) * len(wanted) if any(map(_is_taken, wanted)) else wanted


def _is_taken(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
