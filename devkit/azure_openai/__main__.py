"""The emulator as a program: prints one line of JSON with its URL and key, and serves until it is told to end."""

import argparse
import asyncio
import contextlib
import json
import os
import signal

import msgspec
from aiohttp import web

from devkit.azure_openai.options import Options
from devkit.azure_openai.server import build_app

_PARENT_POLL_SECONDS = 0.5


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(prog="python -m devkit.azure_openai", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--api-key", default="emulator-key", help="what clients must send")
    parser.add_argument("--speed", type=float, help="service seconds in a real second")
    parser.add_argument("--options", default="{}", help="JSON of any options, see options.py")
    parser.add_argument("--forward", metavar="URL", help="base URL of an OpenAI-compatible endpoint that answers lines")
    parser.add_argument("--storage", metavar="CONNECTION_STRING", help="where blobs are read and written, see blobs.py")
    parser.add_argument("--with-parent", action="store_true", help="end when the process that started this one ends")
    args = parser.parse_args()
    options, given = Options(), {"speed": args.speed, "forward": args.forward, "storage": args.storage}
    try:
        changes = msgspec.json.decode(args.options, type=dict[str, object])
        options.change(changes | {name: value for name, value in given.items() if value is not None})
    except msgspec.DecodeError as error:
        parser.error(f"--options: {error}")
    asyncio.run(_serve(options, args.api_key, args.port, with_parent=args.with_parent))


async def _serve(options: Options, api_key: str, port: int, *, with_parent: bool) -> None:
    # Asked for before anything that takes time: a parent that dies early shall be missed.
    parent = os.getppid()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(build_app(options, api_key), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        bound = runner.addresses[0][1]
        print(json.dumps({"url": f"http://127.0.0.1:{bound}", "api_key": api_key}), flush=True)
        while not stop.is_set() and (not with_parent or os.getppid() == parent):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _PARENT_POLL_SECONDS)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    main()
