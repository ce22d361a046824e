"""An emulator of the files and batches of Azure OpenAI, for one machine and with no Azure account.

Start it with `python -m devkit.azure_openai`, or from Python with `devkit.azure_openai.process.AzureOpenAI`. The
documentation's own samples run against it unchanged, but for the endpoint and the key.

| module | noun |
|---|---|
| `options` | every option, and the quirks of the service that can be switched on |
| `clock` | service time: may run faster than real time, and be held |
| `errors` | an answer of the API that is not a success |
| `files` | the file store, on disk |
| `lines` | the lines of an input file, and what is wrong with them |
| `scripts` | directives in the content of a line: what shall happen to it, or to its batch |
| `model` | who answers a line: the built-in model, or an endpoint that lines are forwarded to |
| `quota` | the tokens that are enqueued for a deployment |
| `blobs` | the user's blob storage, as the service may reach it |
| `batch` | what a batch is |
| `hosting` | where a batch has its input from and puts its results: files, or blobs |
| `batches` | its life |
| `execution` | the execution of its lines, and how often each was executed |
| `listing` | how batches are shown, one by one and in pages; `$filter` and `$orderby` |
| `faults` | faults of the network and of the service, injected into requests |
| `service` | all of these together |
| `server` | routes, API versions, access |
| `control` | the control surface of tests: options, hold, faults, executions |
| `process` | starts the emulator from Python |

Left out, on purpose: embeddings, every purpose of a file but `batch`, the uploads API, answering outside of a batch,
a look into bearer tokens (any but "expired" is taken), roles (but for the one on blobs) and regions, content filtering,
a check of a line's body beyond `model`, `stream` and `data_sources`, versions of the API too old for blobs. No batch
expires by itself, as the service promises: a directive or the control surface must say so. Codes
are as documented; how the service words its messages mostly is not, so most are ours.
"""
