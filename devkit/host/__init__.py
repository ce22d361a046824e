"""A local Azure Functions host for Python apps: small enough to read, true enough to test against.

The worker is Microsoft's own (azure-functions-runtime, in a subprocess); the storage is Azurite, or any account with
a connection string; the host between them is this package, one noun per file. `python -m devkit.host --app DIR` runs
it, process.py starts it from a test.

What it keeps of the real host:
- delivery is at least once: messages hide and come back, five attempts, then the poison queues
- the real names of queues, shapes of messages, and paths of receipts, locks, timer status and keys
- the blob trigger from both sources: the Event Grid webhook, and the listing of containers
- a time limit or a crash ends the worker process, and every invocation in it
- the queue trigger's batches, thresholds and back-off; the timer's lock, catch-up and past due
- HTTP routes, keys and admin calls
- a drain on SIGTERM
It can also do what production does on a bad day: repeat, delay and lose events, and be killed at any time.

What it leaves out: other triggers and input bindings; the retry policies of @app.retry; managed identities; more than
one worker process; dynamic concurrency, scaling, and the limits of a plan; keys of single functions; time zones; log
levels of host.json.
"""
