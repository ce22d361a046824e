"""The table of contents: one short function for each trigger, each one call into batch_fn."""

import azure.functions as func
import azurefunctions.extensions.bindings.blob as blob

from batch_fn.app import get_app
from batch_fn.runtime.telemetry import step
from batch_fn.storage.queues import parse_message

batch_app = get_app()
settings = batch_app.settings
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
    from batch_fn.steps.intake import ingest

    with step("drop"):
        ingest(batch_app, client.blob_name)


@app.function_name("drop_found")
@app.queue_trigger(arg_name="message", queue_name=settings.drop_queue, connection="BatchStorage")
def drop_found(message: func.QueueMessage) -> None:
    """The tick found a drop whose event was lost, or whose first reader died."""
    from batch_fn.steps.resume import resume

    asked = parse_message(message.get_body())
    with step("drop_found", asked.job_id):
        resume(batch_app, asked)


@app.function_name("submit")
@app.queue_trigger(arg_name="message", queue_name=settings.submit_queue, connection="BatchStorage")
def submit(message: func.QueueMessage) -> None:
    """A part waits: make it a batch at the service."""
    from batch_fn.steps.submission import submit

    asked = parse_message(message.get_body())
    with step("submit", asked.job_id):
        submit(batch_app, asked.job_id, asked.part)


@app.function_name("collect")
@app.queue_trigger(arg_name="message", queue_name=settings.collect_queue, connection="BatchStorage")
def collect(message: func.QueueMessage) -> None:
    """A batch has ended: bring its results home, and finish the job if it was the last one."""
    from batch_fn.steps.collection import collect

    asked = parse_message(message.get_body())
    with step("collect", asked.job_id):
        collect(batch_app, asked.job_id)


@app.function_name("doctor")
@app.queue_trigger(arg_name="message", queue_name=settings.doctor_queue, connection="BatchStorage")
def doctor(message: func.QueueMessage) -> None:
    """Somebody asked for an examination of everything that a job needs."""
    from batch_fn.doctor.runs import run

    with step("doctor"):
        run(batch_app, parse_message(message.get_body()).job_id)


@app.function_name("tick")
@app.timer_trigger(arg_name="timer", schedule=settings.tick_schedule)
def tick(timer: func.TimerRequest, context: func.Context) -> None:  # noqa: ARG001 - the host passes it
    """Ask the service about the open batches, put back on its way what was left behind; each hour, look at all."""
    from batch_fn.doctor.runs import look_hourly
    from batch_fn.steps.polling import tick

    # What a thread of ours logs counts as this invocation's only if the thread says so.
    with step("tick"):
        tick(batch_app, lambda: setattr(context.thread_local_storage, "invocation_id", context.invocation_id))
    with step("look_hourly"):
        look_hourly(batch_app)


@app.function_name("drop_poisoned")
@app.queue_trigger(arg_name="message", queue_name="webjobs-blobtrigger-poison", connection="BatchStorage")
def drop_poisoned(message: func.QueueMessage) -> None:
    """The host gave up on a drop's event: have it tried again, and at last reported."""
    from batch_fn.steps.poison import poisoned_event

    with step("drop_poisoned"):
        poisoned_event(batch_app, message.get_body())


def message_poisoned(message: func.QueueMessage) -> None:
    """The host gave up on one of our own messages: have its work tried again, and at last reported."""
    from batch_fn.steps.poison import poisoned_message

    with step("errand_poisoned"):
        poisoned_message(batch_app, message.get_body())


for name, queue in (
    ("drop_found", settings.drop_queue),
    ("submit", settings.submit_queue),
    ("collect", settings.collect_queue),
):
    trigger = app.queue_trigger(arg_name="message", queue_name=f"{queue}-poison", connection="BatchStorage")
    app.function_name(f"{name}_poisoned")(trigger(message_poisoned))


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
    from batch_fn.api import routes

    return routes.jobs(batch_app, request)


@app.function_name("job")
@app.route("jobs/{id}", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def job(request: func.HttpRequest) -> func.HttpResponse:
    """Return one job."""
    from batch_fn.api import routes

    return routes.job(batch_app, request)


@app.function_name("cancel")
@app.route("jobs/{id}/cancel", trigger_arg_name="request", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def cancel(request: func.HttpRequest) -> func.HttpResponse:
    """Cancel a job."""
    from batch_fn.api import routes

    with step("cancel"):
        return routes.cancel(batch_app, request)


@app.function_name("retry")
@app.route("jobs/{id}/retry", trigger_arg_name="request", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def retry(request: func.HttpRequest) -> func.HttpResponse:
    """Send a finished job's failed lines again."""
    from batch_fn.api import routes

    with step("retry"):
        return routes.retry(batch_app, request)


@app.function_name("batches")
@app.route("batches", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def batches(request: func.HttpRequest) -> func.HttpResponse:
    """Return a page of the service's batches."""
    from batch_fn.api import routes

    return routes.batches(batch_app, request)


@app.function_name("deployments")
@app.route("deployments", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def deployments(request: func.HttpRequest) -> func.HttpResponse:
    """Return each deployment's quota."""
    from batch_fn.api import routes

    return routes.deployments(batch_app, request)


@app.function_name("health")
@app.route("health", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def health(request: func.HttpRequest) -> func.HttpResponse:
    """Return whether all that the app rests on is well."""
    from batch_fn.api import routes

    return routes.health(batch_app, request)


@app.function_name("usage")
@app.route("usage", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def usage(request: func.HttpRequest) -> func.HttpResponse:
    """Return what the finished jobs of each day came to."""
    from batch_fn.api import routes

    return routes.usage(batch_app, request)


@app.function_name("ask_doctor")
@app.route("doctor", trigger_arg_name="request", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
def ask_doctor(request: func.HttpRequest) -> func.HttpResponse:
    """Ask for an examination of everything that a job needs."""
    from batch_fn.api import routes

    return routes.ask_doctor(batch_app, request)


@app.function_name("examination")
@app.route("doctor/{id}", trigger_arg_name="request", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def examination(request: func.HttpRequest) -> func.HttpResponse:
    """Return what the doctor found."""
    from batch_fn.api import routes

    return routes.examination(batch_app, request)
