"""A language model for tests and demos: an OpenAI-compatible server that answers by rules.

`search for X` calls the tool search_crm, and a message with `pipeline` calls pipeline_report; after a tool the model
repeats the result, else the message. `strive start` runs it, unless AI_BASE_URL names another.
"""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chunk = dict[str, Any]


class ScriptedModel(ThreadingHTTPServer):
    """`script` replaces the rules: the next completions, each a text, {"name": …, "arguments": …} or a whole stream."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.script: list[str | Chunk | bytes] = []
        self.requests: list[Chunk] = []
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedModel

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": [{"id": "double", "object": "model"}]}')

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(request)
        answer = self.server.script.pop(0) if self.server.script else by_rule(request["messages"])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        try:
            for part in [answer] if isinstance(answer, bytes) else stream(answer):
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:
            self.server.stopped.set()

    def log_message(self, *_: Any) -> None:
        """Not to the terminal."""


def by_rule(messages: list[Chunk]) -> str | Chunk:
    last = messages[-1]
    if last["role"] == "tool":
        return f"I found: {last['content'][:500]}"
    if (text := str(last["content"])).lower().startswith("search for "):
        return {"name": "search_crm", "arguments": {"query": text[11:]}}
    if "pipeline" in text.lower():
        return {"name": "pipeline_report", "arguments": {}}
    return f"You wrote: {text}"


def stream(answer: str | Chunk) -> Iterator[bytes]:
    for chunk in chunks(answer):
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    yield b"data: [DONE]\n\n"


def chunks(answer: str | Chunk) -> Iterator[Chunk]:
    if isinstance(answer, str):
        words = answer.split(" ")
        for place, word in enumerate(words):
            yield _delta({"content": word + (" " if place < len(words) - 1 else "")})
    else:
        text = json.dumps(answer["arguments"])
        head = {"index": 0, "id": "call_1", "function": {"name": answer["name"], "arguments": text[:5]}}
        yield _delta({"tool_calls": [head]})
        yield _delta({"tool_calls": [{"index": 0, "function": {"arguments": text[5:]}}]})
    yield {"choices": [], "usage": {"total_tokens": 100}}


def _delta(delta: Chunk) -> Chunk:
    return {"choices": [{"index": 0, "delta": delta}]}


if __name__ == "__main__":
    ScriptedModel(int(sys.argv[1])).serve_forever()
