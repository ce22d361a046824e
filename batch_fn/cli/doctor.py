"""`doctor`: looks at everything that a job needs, from here, or has the deployed app look."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click
import msgspec

from batch_fn.app import App
from batch_fn.cli.commands import commands, environment, json_option
from batch_fn.cli.display import Display, printable, summary
from batch_fn.cli.transfer import followed, upload
from batch_fn.core.checkup import Check, Examination, State, sentence, worst
from batch_fn.core.jobs import Outcome
from batch_fn.doctor.configuration import check_settings
from batch_fn.doctor.examine import examine
from batch_fn.settings import SettingError, Settings

KEY = "BATCH_FN_KEY"
ASK_SECONDS = 5.0
PATIENCE_SECONDS = 20 * 60
CANARY_NAME = "doctor/canary.jsonl"
CANARY_TOKENS = 16
CANARY_COST = f"The canary is one line through a batch: it costs some 20 tokens in and up to {CANARY_TOKENS} out."
KEY_CURE = "az functionapp keys list --resource-group <group> --name <app> --query functionKeys.default --output tsv"
RESTART_CURE = "az functionapp restart --resource-group <group> --name <app>"


@commands.command()
@click.option("--app", "address", metavar="URL", help="The deployed app that looks: https://<app>.azurewebsites.net.")
@click.option("--key", envvar=KEY, help=f"A function key of that app; better in the environment, as {KEY}.")
@click.option("--canary", is_flag=True, help="Send one line through a batch as well, and wait. It costs.")
@click.option("--deployment", default="batch", show_default=True, help="The deployment that the canary is for.")
@json_option
def doctor(address: str | None, key: str | None, *, canary: bool, deployment: str, as_json: bool) -> int:
    """Look at all that a job needs; say what is wrong, and the cure.

    Without --app it looks from here, with the settings and the identity that are here; the canary goes from here as
    well. Exits with 1 if anything is wrong.
    """
    if address and canary:
        raise click.UsageError("The canary is dropped from here: leave --app out.")
    looked = _deployed(address.rstrip("/"), key) if address else _here(canary=canary, deployment=deployment)
    checks: list[Check] = []
    for check in looked:
        checks.append(check)
        if not as_json:
            click.echo(_line(check))
            sys.stdout.flush()
    counts = ", ".join(f"{count} {state}" for state in State if (count := sum(each.state is state for each in checks)))
    click.echo(f"{len(checks)} checks: {counts}.", err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"state": worst(checks), "checks": checks}), indent=2))
    return 1 if worst(checks) is State.WRONG else 0


def _line(check: Check) -> str:
    cure = f" Cure: {check.cure}" if check.cure else ""
    return printable(f"{check.state:8} {check.name}: {check.saw}{cure}")


def _here(*, canary: bool, deployment: str) -> Iterator[Check]:
    """Look from this machine, with the settings that are here."""
    given = environment()
    try:
        app = App(Settings.read(given), signed_in=True)
    except SettingError:
        yield from check_settings(given)  # which says what stops the app, here or where it is deployed
        return
    checks: list[Check] = []
    for check in examine(app, given, deployed=False):
        checks.append(check)
        yield check
    if canary and worst(checks) is not State.WRONG:
        yield _canary(app, deployment)
    elif canary:
        yield Check("canary", State.UNKNOWN, "It was not sent.", "Cure what is wrong above first.")


def _canary(app: App, deployment: str) -> Check:
    """Send one line through a batch, and wait for its answer."""
    click.echo(f"{CANARY_COST} It may take minutes, and at worst a day; Ctrl-C leaves it to itself.", err=True)
    messages = [{"role": "user", "content": "Say ok."}]
    body = {"model": deployment, "messages": messages, "max_completion_tokens": CANARY_TOKENS}
    line = {"custom_id": "canary", "method": "POST", "url": "/chat/completions", "body": body}
    with TemporaryDirectory() as folder, Display() as display:
        file = Path(folder) / "canary.jsonl"
        file.write_text(json.dumps(line) + "\n")
        job = upload(app, file, CANARY_NAME, None, display)
        (detail,) = followed(app, {job: CANARY_NAME}, display)
    tokens, told = detail["usage"]["total_tokens"], " ".join(summary(detail))
    if detail["status"] == Outcome.SUCCEEDED:
        return Check("canary", State.OK, f"Job {job} was answered with {tokens} tokens; its results stay.")
    return Check("canary", State.WRONG, sentence(told), f"python -m batch_fn show {job}, and its errors blob, say why.")


def _deployed(address: str, key: str | None) -> Iterable[Check]:
    """Have the deployed app look, and wait for what it finds."""
    if not key:
        raise click.UsageError(f"The app wants a key: --key, or the environment variable {KEY}. {KEY_CURE}")
    click.echo(f"Asking {address}, which takes up to two minutes.", err=True)
    try:
        examination = _asked(f"{address}/api/doctor", key, "POST")
        end = time.monotonic() + PATIENCE_SECONDS
        while examination.ended_at is None and time.monotonic() < end:
            time.sleep(ASK_SECONDS)
            examination = _asked(f"{address}/api/doctor/{examination.id}", key, "GET")
    except HTTPError as error:
        return [_refused(error.code)]
    except (URLError, TimeoutError) as error:
        cure = f"Check the address (azd env get-value AZURE_FUNCTION_APP_HOST), then restart the app: {RESTART_CURE}."
        return [Check("app", State.WRONG, sentence(f"It does not answer: {getattr(error, 'reason', error)}"), cure)]
    if examination.ended_at is None:
        return [Check("app", State.WRONG, "It took the request and gave no result.", f"Restart it: {RESTART_CURE}.")]
    return examination.checks


def _asked(url: str, key: str, method: str) -> Examination:
    request = Request(url, method=method, headers={"x-functions-key": key})  # noqa: S310 - the user's own address
    with urlopen(request, timeout=60) as answer:  # noqa: S310
        body: dict[str, Any] = json.load(answer)
    checks = msgspec.convert(body["checks"], list[Check])
    return Examination(
        body["id"],
        datetime.fromisoformat(body["asked"]),
        datetime.fromisoformat(body["ended"]) if body["ended"] else None,
        checks,
    )


def _refused(status: int) -> Check:
    """Say what it means that the app, or the host in its place, answers with that status."""
    name, saw = "app", f"It answers with HTTP {status}."
    if status in {401, 403}:
        return Check(name, State.WRONG, f"{saw} The key is none of its.", f"Ask for it: {KEY_CURE}.")
    if status in {404, 502, 503}:
        saw += " It runs no functions: it did not start, or is another app."
        cure = "Look at its settings from here, python -m batch_fn doctor without --app, and at its log stream; a role "
        return Check(name, State.WRONG, saw, f"{cure}that came late needs a restart: {RESTART_CURE}.")
    return Check(name, State.WRONG, saw, "Look at the app's log.")
