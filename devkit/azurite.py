"""Azurite, Microsoft's storage emulator, as a child process: blobs, queues and tables on ports of 127.0.0.1.

    with Azurite() as azurite:
        BlobServiceClient.from_connection_string(azurite.connection_string)

`stop()` and `start()` come back on the same ports with the same data, so that a test can take the storage away in
mid-run. Azurite ends with the process that started it, however that one ends: it reads a pipe, and leaves when the
other end closes.
"""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

# Published by Microsoft, the same for every storage emulator: it protects nothing.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

SERVICES = ("Blob", "Queue", "Table")
START_SECONDS = 60
STOP_SECONDS = 10

_PROGRAM = Path(__file__).parent / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
# Loaded by Node before Azurite: our end of its stdin closes when we stop, or die; then it saves its data and leaves.
_LEAVE_WITH_PARENT = "data:text/javascript,process.stdin.resume().on('end',()=>process.kill(process.pid,'SIGTERM'))"


class AzuriteError(Exception):
    """Azurite is not installed, or did not start; the message says what to do."""


class Azurite:
    """One Azurite. `data` is its folder, created if absent; without it a temporary one, gone when the context ends.

    `ports` are those of blobs, queues and tables; 0 is a free one.
    """

    def __init__(self, data: Path | None = None, ports: Sequence[int] = (0, 0, 0)) -> None:
        self._data = data or Path(tempfile.mkdtemp(prefix="azurite-"))
        self._is_temporary = data is None
        self._ports = dict(zip(SERVICES, ports, strict=True))
        self._process: subprocess.Popen[str] | None = None

    @property
    def connection_string(self) -> str:
        """The connection string of the emulator's account, each endpoint spelled out; the same after a restart."""
        endpoints = [f"{service}Endpoint=http://127.0.0.1:{port}/{ACCOUNT};" for service, port in self._ports.items()]
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};{''.join(endpoints)}"

    def start(self) -> None:
        """Return when all three services listen: on free ports only the first time, on the same ones after that."""
        if not _PROGRAM.exists():
            raise AzuriteError("Azurite is not installed here: run `make setup`.")
        self._data.mkdir(parents=True, exist_ok=True)
        command = ["node", "--import", _LEAVE_WITH_PARENT, str(_PROGRAM), "--location", str(self._data)]
        command += ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        for service, port in self._ports.items():
            command += [f"--{service.lower()}Port", str(port)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal is for us: the host still needs it while it drains
            )
        except FileNotFoundError as error:
            raise AzuriteError("Azurite needs Node.js 20 or later: install it, then run `make setup`.") from error
        self._read_ports(self._process)

    def stop(self) -> None:
        """End Azurite, its data saved; nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=STOP_SECONDS)  # closes the pipe that Azurite reads
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def _read_ports(self, process: subprocess.Popen[str]) -> None:
        """Read what Azurite prints until its last service listens, and keep the port of each."""
        too_late = threading.Timer(START_SECONDS, process.kill)
        too_late.start()
        printed: list[str] = []
        try:
            for line in process.stdout or ():
                printed.append(line)
                words = line.split()
                if "successfully listening" in line:
                    self._ports[words[1]] = int(words[-1].rpartition(":")[2])
                    if words[1] == SERVICES[-1]:
                        return
        finally:
            too_late.cancel()
        self.stop()
        raise AzuriteError(f"Azurite did not start:\n{''.join(printed)}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._is_temporary:
            shutil.rmtree(self._data, ignore_errors=True)
