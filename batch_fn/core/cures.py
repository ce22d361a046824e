"""What an error code of the service or of storage means, and how it is cured. Pure.

One table for all: the doctor's checks, the waits of jobs at work, the findings of a report and the page.
"""

import re
from typing import NamedTuple

SERVICE_ROLE = "Cognitive Services OpenAI Contributor"
ROLES_ARE_SLOW = "A new role assignment takes up to ten minutes."


class Cure(NamedTuple):
    """What a code means, in one sentence, and what to do, in another."""

    meaning: str
    cure: str

    def __str__(self) -> str:
        return f"{self.meaning} {self.cure}"


_DATA_ROLES = (
    "Give it Storage Blob Data Owner, Storage Queue Data Contributor and Storage Table Data Contributor on the "
    f"storage account. {ROLES_ARE_SLOW}"
)
_NO_DATA_ROLE = Cure("The identity has no role for this data.", _DATA_ROLES)
_NETWORK = Cure(
    "The storage account refuses the caller: its firewall does, or the key is wrong.",
    "Allow the app's network on the account, or deploy with PRIVATE_NETWORK=true; check the key in BatchStorage if it "
    "holds one.",
)
_WRONG_KEY = Cure(
    "The service does not accept the key or the identity.",
    "Check AZURE_OPENAI_API_KEY, or leave it out and sign in with an identity of the same tenant as the resource.",
)
_NO_SERVICE_ROLE = Cure(
    "The identity has no role for files and batches of the Azure OpenAI resource.",
    f"Give it {SERVICE_ROLE} on the resource. {ROLES_ARE_SLOW}",
)
_NO_DEPLOYMENT = Cure(
    "The resource has no deployment of this name.",
    "Set body.model to the name of a deployment of SKU GlobalBatch or DataZoneBatch: "
    "az cognitiveservices account deployment list --name <resource> --resource-group <group> --output table.",
)
_NO_ROUTE = Cure(
    "The service does not know this route.",
    "Check AZURE_OPENAI_ENDPOINT (https://<sub-domain>.openai.azure.com) and AZURE_OPENAI_API_VERSION (v1).",
)
_API_VERSION = Cure(
    "The API version does not offer batches for this model.",
    "Set AZURE_OPENAI_API_VERSION to v1.",
)
_NOT_THERE = Cure("It does not exist.", "Deploy again (azd provision), or create it with this name.")

_FILES_FULL = Cure(
    "The resource holds as many files as it may.",
    "Delete old files, or set FILE_EXPIRY_SECONDS: 10,000 files with expiry, 500 without.",
)

_CURES = {
    # Why a part waits: reasons of ours.
    "file_quota": _FILES_FULL,
    "file_gone": Cure(
        "The service answers 404 to the create of a batch: it does not know its file, its route or its deployment.",
        "Nothing needs to be done once: the file is uploaded again. If this lasts, run python -m batch_fn doctor, "
        "which looks at routes and deployments.",
    ),
    # Storage. Source: Azure Storage, "Status and error codes", of Blob, Queue and Table service.
    "authorizationpermissionmismatch": _NO_DATA_ROLE,
    "authorizationfailure": _NETWORK,
    "authenticationfailed": Cure(
        "Storage does not accept the key or the token.",
        "Check the connection string in BatchStorage, and that the clock of this machine is right.",
    ),
    "keybasedauthenticationnotpermitted": Cure(
        "The storage account takes no keys.",
        "Use BatchStorage__blobServiceUri, __queueServiceUri and __tableServiceUri with a managed identity.",
    ),
    "invalidauthenticationinfo": Cure(
        "Storage does not accept the token.", "Sign in again (az login), to the tenant of the storage account."
    ),
    "containernotfound": _NOT_THERE,
    "queuenotfound": _NOT_THERE,
    "tablenotfound": _NOT_THERE,
    "resourcenotfound": _NOT_THERE,
    "containerbeingdeleted": Cure("The container is being deleted.", "Wait a minute, then create it again."),
    "queuebeingdeleted": Cure("The queue is being deleted.", "Wait a minute, then create it again."),
    "tablebeingdeleted": Cure("The table is being deleted.", "Wait a minute, then create it again."),
    "cannotverifycopysource": Cure(
        "Storage cannot read the source of a copy.", f"The identity needs to read both containers. {_DATA_ROLES}"
    ),
    "accountisdisabled": Cure("The storage account is disabled.", "Enable the subscription or the account."),
    "insufficientaccountpermissions": _NO_DATA_ROLE,
    # Before anything is asked: names of ours, and of the errors of Python and the HTTP client.
    "nocredential": Cure(
        "No identity can sign in.",
        "Sign in with az login, give the app a managed identity (AZURE_CLIENT_ID names a user-assigned one), or set "
        "AZURE_OPENAI_API_KEY.",
    ),
    "namenotresolved": Cure(
        "There is no such name, or the name server does not answer.",
        "Check AZURE_OPENAI_ENDPOINT; with a private endpoint, check that its DNS zone is linked to the app's network.",
    ),
    # The service. Source: how-to for batch, "Error codes", and what users report.
    "401": _WRONG_KEY,
    "403": _NO_SERVICE_ROLE,
    "permissiondenied": _NO_SERVICE_ROLE,
    "404": _NO_ROUTE,
    "405": _NO_ROUTE,
    "410": Cure("The model is retired.", "Deploy a model that is still served, and name its deployment in body.model."),
    "deploymentnotfound": _NO_DEPLOYMENT,
    "model_not_found": _NO_DEPLOYMENT,
    "operationnotsupported": Cure(
        "The deployment does not take batches.",
        "Deploy the model with the SKU GlobalBatch or DataZoneBatch: a Standard deployment takes single calls only.",
    ),
    "unsupportedapiversion": _API_VERSION,
    "invalidapiversionparameter": _API_VERSION,
    "quotaexceeded": _FILES_FULL,
    "token_limit_exceeded": Cure(
        "The deployment has as many tokens enqueued as it may.",
        "Nothing needs to be done: the app waits and sends again. Ask for more quota if this lasts.",
    ),
    "input_no_permissions": Cure(
        "The Azure OpenAI resource may not read the input blob.",
        "Give the resource's system-assigned identity Storage Blob Data Contributor on the storage account. "
        f"{ROLES_ARE_SLOW}",
    ),
    "input_modified": Cure(
        "The input blob was changed while its batch ran.", "Leave the archive and work containers to the app."
    ),
}


_SAID = re.compile(r"(?:HTTP (?P<status>\d{3}) ?)?(?P<code>[A-Za-z_]\w+)?(?::|$)")
"""How our own errors begin what the service said: `HTTP 403 PermissionDenied: ...`, `AuthorizationFailure: ...`."""

_OLD_VERSION = re.compile(r"later api[- ]version|api[- ]version.{0,40}not support", re.IGNORECASE)


def code_of(error: Exception) -> str:
    """Return the code that storage gave an error; its class, where there is none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or type(error).__name__)


def cure_of(code: str, message: str = "") -> Cure | None:
    """Return what a code means and its cure, None for a code that is not known.

    Where the code is one of ours (why a part waits), or says less than the message, the message tells.
    """
    if _OLD_VERSION.search(message):
        return _API_VERSION
    if (cure := _CURES.get(code.lower())) is not None:
        return cure
    said = _SAID.match(message)
    found = (_CURES.get((said[name] or "").lower()) for name in ("code", "status")) if said else ()
    return next(filter(None, found), None)


def explain(code: str, message: str) -> str:
    """Return the service's own words, followed by what they mean and the cure where that is known."""
    cure = cure_of(code, message)
    if cure is None:
        return message
    said = f"{message.rstrip('. ')}. " if message.strip() else ""
    return f"{said}{cure}"
