"""`python -m devkit.host --app DIR`: host an app until SIGTERM or Ctrl-C; prints one line of JSON when it is ready.

The app's settings are the environment, and for what that does not say the file given with --settings: `{"Values":
{...}}`, as in local.settings.json. Every field of HostOptions is an option: `scan_seconds` is --scan-seconds.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import fields
from pathlib import Path

from devkit.host.configuration import ConfigurationError, HostOptions, read_host_json
from devkit.host.worker_process import WorkerGone, WorkerProcess

log = logging.getLogger("host")


def read_arguments() -> tuple[Path, HostOptions]:
    """Return the app's folder and the options; settings of a file are put into the environment."""
    parser = argparse.ArgumentParser(
        prog="python -m devkit.host", description="A local Azure Functions host for Python."
    )
    parser.add_argument("--app", type=Path, required=True, help="the folder of function_app.py and host.json")
    parser.add_argument("--settings", type=Path, help="a file such as local.settings.json")
    for field in fields(HostOptions):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    arguments = vars(parser.parse_args())
    app_dir, settings_file = arguments.pop("app").resolve(), arguments.pop("settings")
    if settings_file:
        for name, value in json.loads(settings_file.read_text()).get("Values", {}).items():
            os.environ.setdefault(name, str(value))
    return app_dir, HostOptions(**arguments)


def leave_with_parent() -> None:
    """End this process, at once, when its stdin closes: its parent is gone, or wants it killed."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


def set_up_log(path: str) -> None:
    """Write the host's log to a file, or to stderr."""
    log_format = "%(asctime)s host %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=log_format, filename=path or None)
    logging.getLogger("azure").setLevel(logging.WARNING)


async def serve(app_dir: Path, options: HostOptions) -> None:
    """Host the app until a signal, then drain."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host_json = read_host_json(app_dir / "host.json")
    worker = WorkerProcess(app_dir, options.log)
    await worker.launch()
    from devkit.host.host import Host  # half a second of imports: made here, while the worker makes its own

    host = Host(app_dir, os.environ, host_json, options, worker)
    try:
        print(json.dumps(await host.start()), flush=True)
        await stop.wait()
    finally:
        await host.stop()


def main() -> None:
    """Read the command line, and serve. The exit code is 1 for an app that cannot be hosted; the log says why."""
    app_dir, options = read_arguments()
    set_up_log(options.log)
    if options.with_parent:
        threading.Thread(target=leave_with_parent, daemon=True).start()
    try:
        asyncio.run(serve(app_dir, options))
    except (ConfigurationError, WorkerGone) as error:  # the app's traceback, if there is one, is in its message
        log.error("The app cannot be hosted: %s", error)  # noqa: TRY400
        sys.exit(1)


main()
