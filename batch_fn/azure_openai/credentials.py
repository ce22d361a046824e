"""Tokens of Microsoft Entra ID, for where no key is set."""

from collections.abc import Callable
from typing import Any, cast

SERVICE_SCOPE = "https://cognitiveservices.azure.com/.default"  # source: how-to, "Microsoft Entra ID"


def token_provider(scope: str = SERVICE_SCOPE) -> Callable[[], str]:
    """Return a function that gives a valid token each time, as DefaultAzureCredential signs in.

    The function raises azure.core.exceptions.ClientAuthenticationError if no identity can sign in.
    """
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    provider: Any = get_bearer_token_provider(DefaultAzureCredential(), scope)
    return cast(Callable[[], str], provider)
