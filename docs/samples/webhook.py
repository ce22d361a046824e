"""Push: a web server that receives an event for each report. `python webhook.py 8080` prints one line for each job.

On the internet it needs TLS, and a secret in the subscription's URL that it checks. Process an event by its job id:
Event Grid delivers at least once, in any order.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

done: set[str] = set()
"""The jobs that were processed. Store them where they outlive this process."""


class Webhook(BaseHTTPRequestHandler):
    """Receives what Event Grid posts."""

    def do_POST(self) -> None:
        """Answer the handshake, process the events."""
        events = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {}
        for event in events:
            if event["eventType"] == "Microsoft.EventGrid.SubscriptionValidationEvent":
                answer = {"validationResponse": event["data"]["validationCode"]}
            elif event["eventType"] == "Microsoft.Storage.BlobCreated":
                handle(event["subject"], event["data"]["url"])
        body = json.dumps(answer).encode()
        self.send_response(200)  # anything else, or an exception, and Event Grid sends the events again
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def handle(subject: str, url: str) -> None:
    """Process one report: /blobServices/default/containers/batch-reports/blobs/<path>/<job id>.json."""
    job_id = subject.rpartition("/")[2].removesuffix(".json")
    if job_id not in done:
        print(json.dumps({"job_id": job_id, "report": url}), flush=True)  # noqa: T201 - your work goes here
        done.add(job_id)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Webhook).serve_forever()
