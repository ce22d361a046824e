"""Tokens of Microsoft Entra ID, for where no key is set, and whose they are."""

import base64
import json
from collections.abc import Callable
from typing import Any, cast

SERVICE_SCOPE = "https://cognitiveservices.azure.com/.default"  # source: how-to, "Microsoft Entra ID"
STORAGE_SCOPE = "https://storage.azure.com/.default"


def token_provider(scope: str = SERVICE_SCOPE) -> Callable[[], str]:
    """Return a function that gives a valid token each time, as DefaultAzureCredential signs in.

    The function raises azure.core.exceptions.ClientAuthenticationError if no identity can sign in.
    """
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    provider: Any = get_bearer_token_provider(DefaultAzureCredential(), scope)
    return cast(Callable[[], str], provider)


def signed_in_as(credential: Any, scope: str) -> str | None:
    """Return as whom a credential signs in, None if it cannot."""
    from azure.core.exceptions import ClientAuthenticationError

    try:
        return owner_of(credential.get_token(scope).token)
    except ClientAuthenticationError:
        return None


def owner_of(token: str) -> str:
    """Return whose token it is, for a person to read. It is not verified: nothing is granted on the strength of it.

    Source: Microsoft identity platform, "Access token claims reference", and the claim xms_mirid of managed identities.
    """
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        identity = str(claims.get("xms_mirid") or "").rpartition("/")[2]
        user = claims.get("upn") or claims.get("unique_name") or claims.get("preferred_username")
        application = claims.get("app_displayname") or claims.get("appid") or claims.get("azp")
    except (ValueError, IndexError, AttributeError):
        return "an identity whose token cannot be read"
    if identity:
        return f"the managed identity {identity}"
    if user:
        return f"{user} (az login, or another sign-in of a person)"
    return f"the application {application}" if application else "an identity without a name"
