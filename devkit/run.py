"""`make run`: the whole of batch_fn on this machine, kept up until Ctrl-C, with its data kept between runs in .devkit/.

In another terminal, `make drop FILE=my.jsonl` sends a file to it, and `python -m batch_fn` finds it. Storage and host
listen on their well-known ports if these are free, else on others.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from azure.core.exceptions import AzureError

from batch_fn.cli.display import open_console
from devkit import ports
from devkit.azurite import AzuriteError
from devkit.host.process import HostError
from devkit.host_log import readable
from devkit.run_file import FOLDER, AlreadyRunningError, RunFile, Running, hold
from devkit.stack import IMPATIENT, Stack, shown

LOG = FOLDER / "host.log"
LOOK_SECONDS = 0.2
SPEED = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SETTINGS = {"SETTLE_SECONDS": "10"}
"""The emulator forgets its batches when it is stopped: a batch that it does not know is believed gone, and sent again,
sooner than one of the real service."""


def main() -> int:
    """Keep the stack up until a signal. Return the exit code."""
    arguments = _read_arguments()
    terminal = Terminal(threading.Event())
    for number in SIGNALS:
        signal.signal(number, lambda *_: terminal.stop.set())
    try:
        with hold() as run_file:
            _run(terminal, run_file, _stack(arguments), arguments)
    except (AlreadyRunningError, AzuriteError, HostError, AzureError, OSError, RuntimeError) as error:
        terminal.say(str(error))
        return 1
    return 0


class Terminal:
    """Where to write to, and whether to stop: somebody said so, or the terminal was closed."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self._console = open_console()

    def say(self, text: str) -> None:
        """Write a line. Without a terminal there is nobody to run for."""
        try:
            self._console.print(text, markup=False, soft_wrap=True)
        except OSError:
            self.stop.set()
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the lines to come, and the last flush


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument(
        "--forward", metavar="URL", help="base URL of an OpenAI-compatible endpoint that gives the answers"
    )
    parser.add_argument(
        "--speed", type=float, default=SPEED, metavar="N", help="service seconds in a second, 60 if not given"
    )
    return parser.parse_args()


def _stack(arguments: argparse.Namespace) -> Stack:
    [host_port] = ports.free_or_any(ports.HOST)
    return Stack(
        SETTINGS,
        service={"speed": arguments.speed, "forward": arguments.forward},
        # A lock that a killed host left behind would keep the tick waiting for a minute.
        host={"port": host_port, "log": str(LOG), "break_locks": True, **IMPATIENT},
        data=FOLDER / "azurite",
        storage_ports=ports.free_or_any(ports.STORAGE),
    )


def _run(terminal: Terminal, run_file: RunFile, stack: Stack, arguments: argparse.Namespace) -> None:
    """Start everything, show the log until it is time to stop, stop everything."""
    if run_file.left_behind:
        terminal.say("The last `make run` was killed; going on with what it stored.")
    LOG.unlink(missing_ok=True)
    terminal.say("Starting Azurite, the Azure OpenAI emulator and the Functions host ...")
    with stack:
        run_file.write(_running(stack))
        _say_where(terminal, stack, arguments)
        _show_log(terminal)
        terminal.say("Stopping everything ...")
    terminal.say(f"Stopped. What was stored is in {shown(FOLDER)}/, for the next `make run`.")


def _running(stack: Stack) -> Running:
    return Running(
        pid=os.getpid(),
        environment=stack.environment,
        service_url=stack.service.url,
        host_url=stack.host.url,
        log=str(LOG),
    )


def _say_where(terminal: Terminal, stack: Stack, arguments: argparse.Namespace) -> None:
    answers = f"forwards to {arguments.forward}" if arguments.forward else "answers by itself"
    facts = {
        "storage": f"Azurite at {stack.user.blobs.url}",
        "connection string": stack.azurite.connection_string,
        "Azure OpenAI": f"an emulator at {stack.service.url}, api-key {stack.service.api_key}; it {answers}, "
        f"{arguments.speed:g} times as fast as the real one",
        "Functions": f"a host at {stack.host.url}, running the app's {len(stack.host.functions)} functions",
        "page": f"{stack.host.url}/api/dashboard",
        "key of the page": stack.host.keys["function"],
        "log": f"{shown(LOG)} in full; below, what matters of it",
        "to drop a file": "make drop FILE=devkit/samples/good.jsonl    (in another terminal)",
        "to see the jobs": f"{shown(Path(sys.executable))} -m batch_fn jobs    (it finds what runs here)",
        "or": f"put a blob into the container {stack.settings.input_container}, "
        f"and wait for its report in {stack.settings.reports_container}",
        "to stop": "Ctrl-C",
    }
    table = "\n".join(f"  {name:18} {fact}" for name, fact in facts.items())
    terminal.say(f"\n{table}\n")


def _show_log(terminal: Terminal) -> None:
    """Show what matters of the host's log while it is written, until it is time to stop."""
    with LOG.open(encoding="utf-8", errors="replace") as log:
        while not terminal.stop.wait(LOOK_SECONDS):
            for line in log:
                text = readable(line)
                if text is not None:
                    terminal.say(text)


if __name__ == "__main__":
    sys.exit(main())
