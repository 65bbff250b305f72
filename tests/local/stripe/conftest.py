"""A shop at a fresh double, and an endpoint that receives its events."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from local.stripe.server import Double
from tests.support.stripe_shop import Shop, new_shop, opened


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


@pytest.fixture
def shop(double: Double) -> Shop:
    return new_shop(double)


@dataclass
class Receiver:
    url: str
    got: list[tuple[str, bytes]] = field(default_factory=list)
    refuse: int = 0

    def events(self) -> list[Any]:
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.got.append((self.headers["stripe-signature"], body))
            kept.refuse -= 1
            self.send_response(500 if kept.refuse >= 0 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        kept = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield kept
        server.shutdown()
