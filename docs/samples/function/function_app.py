"""Another Function app that is notified of finished jobs, by push and by pull: keep one of the two.

Its setting `BatchStorage` is the storage account that batch_fn works on. Both deliver at least once: process a
job by its job id.
"""

import json
import logging

import azure.functions as func

app = func.FunctionApp()


@app.blob_trigger(
    arg_name="report",
    path="batch-reports/{name}",
    connection="BatchStorage",
    source=func.BlobSource.EVENT_GRID,
    data_type=func.DataType.BINARY,  # else a report's own `name` or `uri` would be taken for the blob's
)
def report_written(report: func.InputStream) -> None:
    """Push: Event Grid sends an event for each report, and the host passes the report."""
    document = json.loads(report.read())
    handle("report_written", document["job_id"], document["status"])


@app.queue_trigger(arg_name="message", queue_name="batch-completed", connection="BatchStorage")
def job_finished(message: func.QueueMessage) -> None:
    """Pull: the host receives each message, and deletes it when this returns; after five failures it is poison."""
    job = json.loads(message.get_body())["job"]
    handle("job_finished", job["job_id"], job["status"])


def handle(told_by: str, job_id: str, status: str) -> None:
    """Process one finished job: your work goes here."""
    logging.info(json.dumps({"told_by": told_by, "job_id": job_id, "status": status}))
