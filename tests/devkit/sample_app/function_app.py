"""The app that the host's tests run. Each function writes what it saw as a line of the file $TRACE."""

import json
import os
import time
from pathlib import Path

import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob

pauses = iter(os.environ.get("TICK_SECONDS", "").split())  # how long the first runs of `tick` take

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)


def trace(function: str, **seen: object) -> None:
    """Append one line, in a single write: several threads and processes may do so at once."""
    with Path(os.environ["TRACE"]).open("a") as file:
        file.write(json.dumps({"function": function, "pid": os.getpid(), **seen}) + "\n")


def act(text: str) -> None:
    """Do what a test asks for by a blob's or a message's text: fail, or take some seconds."""
    if text.startswith("fail"):
        raise ValueError(text)
    if text.startswith("sleep "):
        time.sleep(float(text.removeprefix("sleep ")))


@app.blob_trigger("drop", path="%DROP_CONTAINER%/{name}", connection="DropStorage", source=func.BlobSource.EVENT_GRID)
def drop(drop: blob.BlobClient) -> None:
    """Event Grid, an SDK type."""
    text = drop.download_blob().readall().decode()
    trace("drop", name=drop.blob_name, text=text, etag=drop.get_blob_properties().etag)
    act(text)


@app.blob_trigger("scanned", path="scan/in/{name}.txt", connection="DropStorage", data_type=func.DataType.BINARY)
def scan(scanned: func.InputStream) -> None:
    """Container scan, the content as bytes."""
    text = scanned.read().decode()
    trace("scan", name=scanned.name, text=text, uri=scanned.uri, length=scanned.length)
    act(text)


@app.queue_trigger("message", queue_name="work", connection="AzureWebJobsStorage")
@app.queue_output("copies", queue_name="copies", connection="AzureWebJobsStorage")
def work(message: func.QueueMessage, copies: func.Out[str]) -> None:
    """A queue, and what it puts out to another."""
    text = message.get_body().decode()
    trace("work", text=text, id=message.id, dequeue_count=message.dequeue_count)
    copies.set(f"copy of {text}")
    act(text)


@app.queue_trigger("message", queue_name="others-poison", connection="AzureWebJobsStorage")
def others_poisoned(message: func.QueueMessage) -> None:
    """The poison queue of a queue that nobody listens to."""
    text = message.get_body().decode()
    trace("others_poisoned", text=text, dequeue_count=message.dequeue_count)
    act(text)


@app.queue_trigger("message", queue_name="copies", connection="AzureWebJobsStorage")
def copied(message: func.QueueMessage) -> None:
    """Reads what `work` puts out."""
    trace("copied", text=message.get_body().decode())


@app.timer_trigger("timer", schedule="%TICK%", run_on_startup=False)
def tick(timer: func.TimerRequest) -> None:
    """A timer with its schedule in a setting."""
    trace("tick", past_due=timer.past_due, status=getattr(timer, "schedule_status", None), at=time.time())
    time.sleep(float(next(pauses, "0")))


@app.timer_trigger("timer", schedule="0 0 0 1 1 *", run_on_startup=True)
def start(timer: func.TimerRequest) -> None:
    """A timer that runs at every start."""
    trace("start", past_due=timer.past_due)


@app.timer_trigger("timer", schedule="0 */5 * * * *")
def switched_off(timer: func.TimerRequest) -> None:
    """Disabled by a setting."""
    trace("switched_off", past_due=timer.past_due)


@app.route(route="echo/{number:int}", methods=["POST"])
def echo(req: func.HttpRequest) -> func.HttpResponse:
    """Give back what came, bytes and all."""
    return func.HttpResponse(
        req.get_body(),
        status_code=201,
        mimetype="application/octet-stream",
        headers={
            "x-number": req.route_params["number"],
            "x-query": req.params.get("q", ""),
            "x-header": req.headers.get("X-Mine", ""),
        },
    )


@app.route(route="echo/text", auth_level=func.AuthLevel.ANONYMOUS)
def text(req: func.HttpRequest) -> str:
    """Answer a text, with no key."""
    return f"hello from {req.method}"


@app.route(route="slow/{seconds}", auth_level=func.AuthLevel.ANONYMOUS)
def slow(req: func.HttpRequest) -> str:
    """Take some seconds; fail for zero."""
    seconds = float(req.route_params["seconds"])
    trace("slow", seconds=seconds)
    time.sleep(1 / seconds and seconds)
    return "done"


@app.route(auth_level=func.AuthLevel.ADMIN)
def reset(req: func.HttpRequest) -> func.HttpResponse:
    """Only for the master key."""
    return func.HttpResponse(status_code=200)
