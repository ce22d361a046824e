"""An answer of the API that is not a success."""

from typing import Any


class ApiError(Exception):
    """Raised anywhere below a route; the server answers `status` with the body that Azure uses for errors."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON body: `{"error": {"code", "message"}}`, with `type` and `param` where a parameter is to blame."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.param is not None:
            error |= {"type": "invalid_request_error", "param": self.param}
        return {"error": error}


def invalid(message: str, param: str) -> ApiError:
    """HTTP 400 for a parameter that is missing or out of its range."""
    return ApiError(400, "invalid_request", message, param)


def not_found(noun: str, name: str) -> ApiError:
    """HTTP 404 for an id that is not, or no longer, known."""
    return ApiError(404, "resourceNotFound", f"The {noun} '{name}' was not found.")
