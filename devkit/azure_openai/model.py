"""Who answers a line: the built-in model, or an endpoint that lines are forwarded to."""

import hashlib
import json
import time
import uuid
from typing import Any

import aiohttp
import msgspec

from devkit.azure_openai.lines import Line
from devkit.azure_openai.options import Options


class Answer(msgspec.Struct):
    """An HTTP status, and the JSON that comes with it."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        """Whether the line succeeded, so that its answer goes into the output file."""
        return self.status < 400


class BuiltInModel:
    """Says the same to the same body, with no network; its answers are shaped as the how-to prints them."""

    async def answer(self, line: Line) -> Answer:
        """Always a success."""
        body: dict[str, Any] = msgspec.json.decode(line.body)
        name, digest = str(body.get("model")), hashlib.sha256(bytes(line.body)).hexdigest()
        if line.url.endswith("/responses"):
            return Answer(200, _response(name, digest, body))
        return Answer(200, _chat_completion(name, digest, body))


class ForwardingModel:
    """Sends each line's body to `<the option forward>/chat/completions` (or what else the line's url names)."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, line: Line) -> Answer:
        """The status and body of the endpoint; 502 if it could not be reached or did not answer with JSON."""
        # A session belongs to a running loop, so it is not made before the first line.
        self._session = self._session or self._open_session()
        url = (self._options.forward or "").rstrip("/") + line.url.removeprefix("/v1")
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(url, data=bytes(line.body), headers=headers) as response:
                return Answer(response.status, msgspec.json.decode(await response.read()))
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            return failure(502, f"The endpoint that lines are forwarded to did not answer: {error!r}.")

    def _open_session(self) -> aiohttp.ClientSession:
        # As many requests are under way, over all batches, as there may be connections.
        connector = aiohttp.TCPConnector(limit=self._options.forward_concurrency)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600))

    async def close(self) -> None:
        """End the connections."""
        if self._session:
            await self._session.close()
            self._session = None


def failure(status: int, message: str | None = None) -> Answer:
    """An answer that is an API failure, with a body as Azure words it."""
    code = {400: "invalid_request_error", 429: "429", 500: "InternalServerError"}.get(status, str(status))
    return Answer(status, {"error": {"code": code, "message": message or f"The line failed with status {status}."}})


def output_line(custom_id: str, answer: Answer) -> dict[str, Any]:
    """The line of the output file, or of the error file if the answer is a failure; source: how-to, and reference."""
    response = {"body": answer.body, "request_id": str(uuid.uuid4()), "status_code": answer.status}
    line = {"custom_id": custom_id, "response": response, "error": None}
    return line if answer.ok else {"id": f"batch_req_{uuid.uuid4()}"} | line


def unexecuted_line(custom_id: str, code: str, message: str) -> dict[str, Any]:
    """The line of the error file for a line that the batch never came to."""
    return {"custom_id": custom_id, "response": None, "error": {"code": code, "message": message}}


def tokens(text: str) -> int:
    """How many tokens the built-in model takes a text for."""
    return max(1, len(text) // 4)


def _text_of(content: object) -> str:
    """The text of a message's content, which is a string, or a list of parts of which some have text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


def _asked(messages: object) -> list[str]:
    """The text of each message; `input` of the Responses API may be a bare string."""
    if isinstance(messages, str):
        return [messages]
    contents = messages if isinstance(messages, list) else []
    return [_text_of(message.get("content")) for message in contents if isinstance(message, dict)]


def _said(digest: str, asked: list[str], as_json: bool) -> str:
    """What the built-in model has to say."""
    question = asked[-1][:200] if asked else ""
    said = f"Answer {digest[:8]} to: {question}"
    return json.dumps({"answer": said}) if as_json else said


def _safe(*names: str) -> dict[str, Any]:
    return {name: {"filtered": False, "severity": "safe"} for name in names}


_ANSWER_FILTER = _safe("hate", "self_harm", "sexual", "violence")
_PROMPT_FILTER = {**_ANSWER_FILTER, "jailbreak": {"filtered": False, "detected": False}}


def _chat_completion(name: str, digest: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = _asked(body.get("messages"))
    format_ = body.get("response_format")
    said = _said(digest, asked, isinstance(format_, dict) and str(format_.get("type")).startswith("json"))
    prompt, completion = tokens("".join(asked)), tokens(said)
    choice = {
        "content_filter_results": _ANSWER_FILTER,
        "finish_reason": "stop",
        "index": 0,
        "logprobs": None,
        "message": {"content": said, "role": "assistant"},
    }
    return {
        "choices": [choice],
        "created": int(time.time()),
        "id": f"chatcmpl-{digest[:29]}",
        "model": name,
        "object": "chat.completion",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _PROMPT_FILTER}],
        "system_fingerprint": f"fp_{digest[:10]}",
        "usage": {"completion_tokens": completion, "prompt_tokens": prompt, "total_tokens": prompt + completion},
    }


def _response(name: str, digest: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = _asked(body.get("input"))
    text = body.get("text")
    format_ = text.get("format") if isinstance(text, dict) else None
    said = _said(digest, asked, isinstance(format_, dict) and str(format_.get("type")).startswith("json"))
    prompt, completion = tokens("".join(asked)), tokens(said)
    message = {
        "id": f"msg_{digest[:32]}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": said, "annotations": []}],
    }
    return {
        "id": f"resp_{digest[:32]}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": name,
        "output": [message],
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        },
    }
