"""Pull: takes the messages of finished jobs from the queue `batch-completed` until it is empty. Needs BatchStorage.

A message is hidden for five minutes while it is handled, and deleted after that: if this dies in between, it comes
again. So a job may be seen twice; handle it by its job id.
"""

import json
import os

from azure.storage.queue import QueueClient, TextBase64DecodePolicy

done: set[str] = set()
"""The jobs that were handled. Keep them where they outlive this process."""


def main() -> None:
    """Handle what is there."""
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
