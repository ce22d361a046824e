"""Azure Resource Manager and the token service of a managed identity, as far as the doctor asks them.

`GET <account's resource id>/deployments` and `/models`, and App Service's `GET /msi/token`. Source: the REST references
of Cognitive Services (Deployments - List, Accounts - List Models) and of App Service (managed identity, REST endpoint).
The shapes are written after those documents; nobody captured them.
"""

import base64
import json
import time
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from devkit.azure_openai.errors import ApiError
from devkit.azure_openai.service import SERVICE, Service

RESOURCE_ID = (
    "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/devkit/providers/"
    "Microsoft.CognitiveServices/accounts/emulator"
)
IDENTITY_HEADER = "emulator-identity"
IDENTITY_NAME = "id-emulator"
_MSI_VERSION = "2019-08-01"
_TOKEN_SECONDS = 86_400
_ALWAYS = "batch"  # a deployment that is there where any name is one


async def get_token(request: web.Request) -> web.Response:
    """GET /msi/token: a token that says whose it is, and that nobody signed."""
    if request.headers.get("X-IDENTITY-HEADER") != IDENTITY_HEADER:
        raise ApiError(401, "401", "The header X-IDENTITY-HEADER is missing or wrong.")
    if request.query.get("api-version") != _MSI_VERSION or not request.query.get("resource"):
        raise ApiError(400, "invalid_request", f"api-version must be {_MSI_VERSION}, and resource must be there.")
    end = int(time.time()) + _TOKEN_SECONDS
    identity = RESOURCE_ID.partition("/providers/")[0]
    identity += f"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{IDENTITY_NAME}"
    claims = {"aud": request.query["resource"], "exp": end, "idtyp": "app", "xms_mirid": identity}
    token = ".".join((_encoded({"alg": "none", "typ": "JWT"}), _encoded(claims), ""))
    answer = {"access_token": token, "expires_on": str(end), "resource": claims["aud"], "token_type": "Bearer"}
    return web.json_response(answer | {"client_id": request.query.get("client_id", "emulator")})


async def list_deployments(request: web.Request) -> web.Response:
    """GET <account>/deployments."""
    service = _checked(request)
    return web.json_response({"value": [_deployment(service, name) for name in _names(service)]})


async def list_models(request: web.Request) -> web.Response:
    """GET <account>/models: each model that is deployed, with the day it retires."""
    service = _checked(request)
    models = sorted({_model(service, name) for name in _names(service)})
    return web.json_response({"value": [_model_entry(service, *model) for model in models]})


def _checked(request: web.Request) -> Service:
    """Return what the emulator knows, if the request may know it; raises HTTP 401, 403 or 404."""
    service = request.app[SERVICE]
    if not request.headers.get("Authorization", "").startswith("Bearer "):
        raise ApiError(401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
    if not service.options.management:
        raise ApiError(403, "AuthorizationFailed", "The client does not have authorization to perform this action.")
    if not request.query.get("api-version"):
        raise ApiError(
            400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required."
        )
    if request.path.rpartition("/")[0].lower() != RESOURCE_ID.lower():
        raise ApiError(404, "ResourceNotFound", "The Resource under resource group was not found.")
    return service


def _names(service: Service) -> Iterable[str]:
    """Return the deployments: those that are named, or, where any name is one, those that anybody spoke of."""
    options = service.options
    if options.deployments is not None:
        return sorted({*options.deployments, *options.skus})
    spoken_of = {batch.deployment for batch in service.batches.all() if batch.deployment}
    return sorted({_ALWAYS, *options.skus, *options.models, *options.token_limits, *spoken_of})


def _model(service: Service, deployment: str) -> tuple[str, str]:
    name, _, version = service.options.models.get(deployment, "emulated 2026-01-01").partition(" ")
    return name, version


def _sku(service: Service, deployment: str) -> str:
    return service.options.skus.get(deployment, "GlobalBatch")


def _deployment(service: Service, name: str) -> dict[str, Any]:
    model, version = _model(service, name)
    return {
        "id": f"{RESOURCE_ID}/deployments/{name}",
        "type": "Microsoft.CognitiveServices/accounts/deployments",
        "name": name,
        "sku": {"name": _sku(service, name), "capacity": 90},
        "properties": {
            "model": {"format": "OpenAI", "name": model, "version": version},
            "provisioningState": "Succeeded",
        },
    }


def _model_entry(service: Service, name: str, version: str) -> dict[str, Any]:
    retires = service.options.retirements.get(f"{name} {version}")
    skus = [{"name": sku, "deprecationDate": retires} for sku in ("Standard", "GlobalBatch", "DataZoneBatch")]
    return {
        "format": "OpenAI",
        "name": name,
        "version": version,
        "skus": skus if retires else [],
        "deprecation": {"inference": retires} if retires else {},
    }


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def management_routes() -> list[web.RouteDef]:
    """The routes beside the service's own."""
    account = (
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.CognitiveServices/accounts/{name}"
    )
    return [
        web.get("/msi/token", get_token),
        web.get(f"{account}/deployments", list_deployments),
        web.get(f"{account}/models", list_models),
    ]
