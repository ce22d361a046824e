"""The messages between host and worker.

In Azure they are protobuf, over gRPC. Microsoft's worker library takes the module with its message classes by
injection, builds answers from them and reads attributes: so plain classes of the same names serve. Between our two
processes a message is one line of JSON; bytes travel in it as `{"$bytes": "<base64>"}`.
"""

# The names are the protocol's (FunctionRpc.proto), and so is WhichOneof, protobuf's own spelling.
# ruff: noqa: N802, D101

import base64
import json
from datetime import datetime, timedelta
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

type Json = dict[str, Any]


def write_line(message: Json) -> bytes:
    """Return the message as one line of JSON, its newline included."""
    return json.dumps(message, default=_plain).encode() + b"\n"


def read_line(line: bytes) -> Json:
    """Return the message of one line; objects stay dictionaries, bytes are bytes again."""
    message: Json = json.loads(line, object_hook=_restore_bytes)
    return message


def _plain(value: object) -> object:
    """Return what JSON can hold for a value that it cannot."""
    match value:
        case SimpleNamespace():
            return vars(value)
        case bytes():
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            raise TypeError(f"no JSON for a {type(value).__name__}")


def _restore_bytes(members: Json) -> object:
    return base64.b64decode(members["$bytes"]) if members.keys() == {"$bytes"} else members


class TypedData(SimpleNamespace):
    """A value with its type: one member of string, bytes, json, int, double, http or model_binding_data."""

    def WhichOneof(self, _group: str) -> str | None:
        """Return the name of the member that is set, None for an empty value."""
        return next(iter(vars(self)), None)


class ParameterBinding(SimpleNamespace):
    """A function's argument: its `name` and its `data`."""

    def WhichOneof(self, _group: str) -> str:
        """Return "data": shared memory, the other way to send a value, is not offered."""
        return "data"


def typed_data(value: Json) -> TypedData:
    """Return the TypedData that the library reads, from what came over the line, e.g. {"string": "hello"}."""
    match value:
        case {"http": request}:
            return TypedData(http=SimpleNamespace(**request | {"body": typed_data(request["body"])}))
        case {"model_binding_data": data}:
            return TypedData(model_binding_data=SimpleNamespace(**data))
        case _:
            return TypedData(**value)


class StatusResult(SimpleNamespace):
    Failure = 0
    Success = 1


class BindingInfo(SimpleNamespace):
    undefined = 0
    out = 1
    inout = 2


class RpcHttpCookie(SimpleNamespace):
    SameSite = IntEnum("SameSite", {"None": 0, "Lax": 1, "Strict": 2, "ExplicitNone": 3})


class RpcHttp(SimpleNamespace): ...


class RpcException(SimpleNamespace): ...


class RpcFunctionMetadata(SimpleNamespace): ...


class RpcRetryOptions(SimpleNamespace): ...


class WorkerMetadata(SimpleNamespace): ...


class WorkerInitResponse(SimpleNamespace): ...


class FunctionMetadataResponse(SimpleNamespace): ...


class FunctionLoadResponse(SimpleNamespace): ...


class InvocationResponse(SimpleNamespace): ...


class NullableString(SimpleNamespace): ...


class NullableBool(SimpleNamespace): ...


class NullableDouble(SimpleNamespace): ...


class NullableTimestamp(SimpleNamespace): ...
