"""Pull: receives the messages of finished jobs from the queue `batch-completed` until it is empty. Needs BatchStorage.

A message is hidden for five minutes while it is processed, and deleted after that: if this process dies in between, the
message becomes visible again. So a job may be seen twice; process it by its job id.
"""

import json
import os

from azure.storage.queue import QueueClient, TextBase64DecodePolicy

done: set[str] = set()
"""The jobs that were processed. Store them where they outlive this process."""


def main() -> None:
    """Process the messages that are there."""
    queue = QueueClient.from_connection_string(
        os.environ["BatchStorage"],  # noqa: SIM112 - the name of the app's own setting
        os.environ.get("COMPLETED_QUEUE", "batch-completed"),
        message_decode_policy=TextBase64DecodePolicy(),
    )
    for message in queue.receive_messages(visibility_timeout=300):
        job = json.loads(message.content)["job"]
        if job["job_id"] not in done:
            print(json.dumps(job), flush=True)  # noqa: T201 - your work goes here
            done.add(job["job_id"])
        queue.delete_message(message)


if __name__ == "__main__":
    main()
