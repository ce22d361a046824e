"""The table of contents: one short function for each trigger, each one call into batch_fn."""

import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob

from batch_fn.api import routes
from batch_fn.app import start
from batch_fn.runtime.telemetry import step
from batch_fn.storage.queues import read_errand

here = start()
settings = here.settings
app = func.FunctionApp()


@app.function_name("drop")
@app.blob_trigger(
    arg_name="client",
    path=f"{settings.input_container}/{{name}}",
    connection="BatchStorage",
    source=func.BlobSource(settings.trigger_source),
)
def drop(client: blob.BlobClient) -> None:
    """A file was dropped into the inbox: check it, and make it a job or a report of what is wrong."""
    from batch_fn.steps.intake import take_in

    with step("drop"):
        take_in(here, client)


@app.function_name("drop_found")
@app.queue_trigger(arg_name="message", queue_name=settings.drop_queue, connection="BatchStorage")
def drop_found(message: func.QueueMessage) -> None:
    """The tick found a drop whose event was lost, or whose first reader died."""
    from batch_fn.steps.resume import take_in_found

    errand = read_errand(message.get_body())
    with step("drop_found", errand.job_id):
        take_in_found(here, errand)


@app.function_name("submit")
@app.queue_trigger(arg_name="message", queue_name=settings.submit_queue, connection="BatchStorage")
def submit(message: func.QueueMessage) -> None:
    """A part waits: make it a batch at the service."""
    from batch_fn.steps.submission import submit

    errand = read_errand(message.get_body())
    with step("submit", errand.job_id):
        submit(here, errand.job_id, errand.part)


@app.function_name("collect")
@app.queue_trigger(arg_name="message", queue_name=settings.collect_queue, connection="BatchStorage")
def collect(message: func.QueueMessage) -> None:
    """A batch has ended: bring its results home, and finish the job if it was the last one."""
    from batch_fn.steps.collection import collect

    errand = read_errand(message.get_body())
    with step("collect", errand.job_id):
        collect(here, errand.job_id)


@app.function_name("tick")
@app.timer_trigger(arg_name="timer", schedule=settings.tick_schedule)
def tick(timer: func.TimerRequest, context: func.Context) -> None:  # noqa: ARG001 - the host passes it
    """Ask the service about the open batches, and put back on its way what was left behind."""
    from batch_fn.steps.polling import tick

    # What a thread of ours logs counts as this invocation's only if the thread says so.
    with step("tick"):
        tick(here, lambda: setattr(context.thread_local_storage, "invocation_id", context.invocation_id))


@app.function_name("drop_poisoned")
@app.queue_trigger(arg_name="message", queue_name="webjobs-blobtrigger-poison", connection="BatchStorage")
def drop_poisoned(message: func.QueueMessage) -> None:
    """The host gave up on a drop's event: have it tried again, and at last reported."""
    from batch_fn.steps.poison import poisoned_event

    with step("drop_poisoned"):
        poisoned_event(here, message.get_body())


def _poisoned(message: func.QueueMessage) -> None:
    from batch_fn.steps.poison import poisoned_errand

    with step("errand_poisoned"):
        poisoned_errand(here, message.get_body())


@app.function_name("drop_found_poisoned")
@app.queue_trigger(arg_name="message", queue_name=f"{settings.drop_queue}-poison", connection="BatchStorage")
def drop_found_poisoned(message: func.QueueMessage) -> None:
    """The host gave up on a drop that the tick had found."""
    _poisoned(message)


@app.function_name("submit_poisoned")
@app.queue_trigger(arg_name="message", queue_name=f"{settings.submit_queue}-poison", connection="BatchStorage")
def submit_poisoned(message: func.QueueMessage) -> None:
    """The host gave up on a submit."""
    _poisoned(message)


@app.function_name("collect_poisoned")
@app.queue_trigger(arg_name="message", queue_name=f"{settings.collect_queue}-poison", connection="BatchStorage")
def collect_poisoned(message: func.QueueMessage) -> None:
    """The host gave up on a collect."""
    _poisoned(message)


@app.function_name("dashboard")
@app.route("dashboard", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def dashboard(request: func.HttpRequest) -> func.HttpResponse:  # noqa: ARG001 - the host passes it
    """Return the page; it holds no data, and asks for the key that the API wants."""
    from batch_fn.api.dashboard import headers, page

    return func.HttpResponse(page(), headers=headers(), mimetype="text/html", charset="utf-8")


@app.function_name("jobs")
@app.route("jobs", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def jobs(request: func.HttpRequest) -> func.HttpResponse:
    """Return a page of jobs."""

    return routes.jobs(here, request)


@app.function_name("job")
@app.route("jobs/{id}", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def job(request: func.HttpRequest) -> func.HttpResponse:
    """Return one job."""

    return routes.job(here, request)


@app.function_name("cancel")
@app.route("jobs/{id}/cancel", trigger_arg_name="request", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def cancel(request: func.HttpRequest) -> func.HttpResponse:
    """Cancel a job."""

    with step("cancel"):
        return routes.cancel(here, request)


@app.function_name("retry")
@app.route("jobs/{id}/retry", trigger_arg_name="request", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def retry(request: func.HttpRequest) -> func.HttpResponse:
    """Send a finished job's failed lines again."""

    with step("retry"):
        return routes.retry(here, request)


@app.function_name("batches")
@app.route("batches", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def batches(request: func.HttpRequest) -> func.HttpResponse:
    """Return a page of the service's batches."""

    return routes.batches(here, request)


@app.function_name("deployments")
@app.route("deployments", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def deployments(request: func.HttpRequest) -> func.HttpResponse:
    """Return each deployment's quota."""

    return routes.deployments(here, request)


@app.function_name("health")
@app.route("health", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def health(request: func.HttpRequest) -> func.HttpResponse:
    """Return whether all that the app rests on is well."""

    return routes.health(here, request)


@app.function_name("usage")
@app.route("usage", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def usage(request: func.HttpRequest) -> func.HttpResponse:
    """Return what the finished jobs of each day came to."""

    return routes.usage(here, request)
