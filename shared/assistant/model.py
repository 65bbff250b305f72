"""A language model behind an OpenAI-compatible endpoint: one streamed completion at a time."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx

from shared.app import outgoing
from shared.errors import RETRY, ApiError
from shared.settings import Settings

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
MOST_CHARACTERS = 100_000
MOST_CALLS = 16
# More than any model reads and writes at once: a count beyond it is wrong, and the text is estimated instead.
MOST_TOKENS = 2_000_000

Message = dict[str, Any]


@dataclass
class Completion:
    """What has arrived so far; `tool_calls` by their position."""

    text: str = ""
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    tokens: int = 0
    is_complete: bool = False

    @property
    def message(self) -> Message:
        calls = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for _, call in sorted(self.tool_calls.items())[:MOST_CALLS]
        ]
        return {"role": "assistant", "content": self.text} | ({"tool_calls": calls} if calls else {})


class Model:
    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self._name = name

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[Message], completion: Completion
    ) -> AsyncGenerator[str]:
        """The text of a completion, piece by piece; `completion` gathers all of it."""
        body: Message = {
            "model": self._name,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if tools:
            body["tools"] = list(tools)
        try:
            async with self._client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != HTTPStatus.OK:
                    raise _unavailable(f"It responded with status {response.status_code}.")
                async for line in response.aiter_lines():
                    field, _, data = line.partition(":")
                    if field == "data" and (piece := _take(data.strip(), completion)):
                        yield piece
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise _unavailable(f"{type(problem).__name__} while it responded.") from problem
        if not completion.is_complete:
            raise _unavailable("Its response ended early.")


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Model]:
    if not (settings.ai_base_url and settings.ai_api_key and settings.ai_model):
        raise ApiError(
            501,
            "assistant_off",
            "The assistant is not configured",
            hint="Set AI_BASE_URL, AI_API_KEY and AI_MODEL.",
        )
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    headers = {"authorization": f"Bearer {settings.ai_api_key}"}
    base = settings.ai_base_url.rstrip("/") + "/"
    async with await outgoing.client(base_url=base, headers=headers, timeout=timeout) as client:
        yield Model(client, settings.ai_model)


def _take(data: str, completion: Completion) -> str:
    if data == "[DONE]":
        completion.is_complete = True
        return ""
    chunk = json.loads(data)
    if problem := chunk.get("error"):
        raise ValueError(f"the endpoint sent an error: {problem}")
    if (tokens := (chunk.get("usage") or {}).get("total_tokens")) is not None:
        completion.tokens = int(tokens) if 0 <= int(tokens) <= MOST_TOKENS else 0
    piece = ""
    for choice in (chunk.get("choices") or ())[:1]:
        delta = choice.get("delta") or {}
        piece = _text(delta.get("content"))
        completion.text += piece
        completion.is_complete = completion.is_complete or choice.get("finish_reason") is not None
        for place, call in enumerate(delta.get("tool_calls") or ()):
            # Some endpoints send whole calls without an index.
            known = completion.tool_calls.setdefault(call.get("index", place), {"id": "", "name": "", "arguments": ""})
            called = call.get("function") or {}
            known["id"] += _text(call.get("id"))
            known["name"] += _text(called.get("name"))
            known["arguments"] += _text(called.get("arguments"))
    if len(completion.text) + sum(len(call["arguments"]) for call in completion.tool_calls.values()) > MOST_CHARACTERS:
        raise ValueError("too long")
    return piece


def _text(sent: str | None) -> str:
    """The text without what Postgres cannot store: NUL, and halves of surrogate pairs."""
    return (sent or "").replace("\0", "").encode("utf-8", "replace").decode()


def _unavailable(details: str) -> ApiError:
    return ApiError(
        503,
        "assistant_unavailable",
        "The language model did not complete the response",
        details=details,
        hint="Try again in a moment.",
        headers=RETRY,
    )
