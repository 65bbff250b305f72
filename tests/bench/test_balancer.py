"""The load balancer of the drills sends requests where they are answered."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from bench.drill.balancer import Balancer
from local.stack import free_port


class Named(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])) + b" at %d" % self.server.server_port  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Named) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever).start()
        yield running.server_port
        running.shutdown()


def test_requests_go_only_to_instances_that_serve() -> None:
    with (
        server() as first,
        server() as second,
        Balancer(free_port(), [first, second]) as balancer,
        httpx.Client(base_url=f"http://127.0.0.1:{balancer.port}") as client,
    ):

        def send() -> str:
            return client.post("/", content="ping").text

        assert send() in {f"ping at {first}", f"ping at {second}"}
        for port in (first, second):
            balancer.serve_with(port)
            assert {send() for _ in range(3)} == {f"ping at {port}"}
        gone = free_port()
        balancer.add(gone)
        balancer.serve_with(gone, second)
        assert {send() for _ in range(3)} == {f"ping at {second}"}
        balancer.serve_with(gone)
        assert client.post("/", content="ping").status_code == 502
