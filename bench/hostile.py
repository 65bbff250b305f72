"""Broken and hostile requests to every service of the local API: `python -m bench.hostile [SECONDS] [SEED]`.

Bytes on sockets, because HTTP clients refuse to send most of this. It takes 600 seconds by default and ends with
status 1 if a response is a 5xx that is not documented, a request stays without an answer, the process grows by more
than 200 MB, or an ordinary request fails afterwards.
"""

import base64
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import jwt
import psutil

from bench.drill.neighbor import Account
from bench.drill.stack import running
from local.stack import Stack

HANDS = 4
GROWTH_MB = 200
ANSWER_SECONDS = 40  # the API waits 30 s for the next part of a body
DOCUMENTED = {501, 503}
SLOW_SOCKETS = 40
TEXTS = [
    "", "\0", "\\u0000", "\\ud800", "'", '"', "\\", "%",
    "%00", "%zz", "%ff", "../", "..%2f", "%2e%2e/", "....//", "/", "//",
    "\u202e", "😀", "a" * 3000, "x" * 70_000, "1e999", "-1", "99999999999999999999", "null", "[" * 5000, "{" * 500,
    "(" * 5000, "not." * 300, "id->a" + "->a" * 500, "*", "a,b", "$1", "$$", "--", "\r\nx: y", "NaN", "true",
]  # fmt: skip
TABLES = ["leads", "deals", "companies", "contacts", "tasks", "organizations", "nothing", "rpc/nothing", "rpc/"]
QUERIES = ["select", "order", "limit", "offset", "and", "or", "not.and", "columns", "on_conflict", "id", "name", "a.b"]
HEADERS = [
    "range", "prefer", "accept", "accept-profile", "content-profile", "content-type", "cookie", "x-org-id",
    "x-upsert", "x-metadata", "if-none-match", "origin", "access-control-request-method", "x-forwarded-for",
    "tus-resumable", "upload-length", "upload-offset", "upload-metadata", "cache-control", "expect", "upgrade", "host",
]  # fmt: skip
VALUES = [
    "0-1", "5-1", "bytes=0-", "bytes=-1", "bytes=9-1", "bytes=0-0,2-3", "bytes=99999999999999999999-", "bytes=a-b",
    "count=exact", "handling=strict, max-affected=-1", "tx=rollback", "timezone=Nowhere/Land", "return=nothing",
    "application/vnd.pgrst.object+json", "application/vnd.pgrst.plan+json", "text/csv", "multipart/form-data",
    "multipart/form-data; boundary=" + "b" * 300, "application/json", "application/octet-stream", "websocket",
    "100-continue", 'W/"x"', "*", "1.0.0", "public, auth", "pg_catalog",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", ""]
AUTH_PATHS = [
    "signup", "token?grant_type=password", "token?grant_type=refresh_token", "token?grant_type=pkce", "otp", "recover",
    "verify", "user", "logout", "resend", "admin/users", "admin/generate_link", "invite", "settings", "factors",
    "verify?token=x&type=signup&redirect_to=javascript:1", "user/identities/x", ".well-known/jwks.json",
]  # fmt: skip
STORAGE_PATHS = [
    "bucket", "bucket/attachments", "object/attachments/", "object/sign/attachments/", "object/list/attachments",
    "object/move", "object/copy", "object/info/attachments/", "object/public/avatars/", "object/upload/sign/avatars/",
    "object/authenticated/attachments/", "upload/resumable", "render/image/public/avatars/", "s3/attachments",
]  # fmt: skip
FUNCTION_PATHS = ["health", "openapi.json", "nothing", "organizations", "%2e%2e/%2e%2e/etc/passwd", "stripe-webhook"]
JOIN_CONFIGS: list[object] = [
    None, 5, [], {"broadcast": 5}, {"presence": {"key": [1]}}, {"postgres_changes": [None, 5, {}, [], {"table": {}}]},
    {"postgres_changes": [{"event": "*", "schema": "public", "table": "leads", "filter": "id=in.(" + "1," * 500}]},
    {"postgres_changes": [{"event": "*", "schema": "pg_catalog", "table": "pg_authid"}]},
    {"private": True, "broadcast": {"replay": {"since": -1, "limit": 10**30}}}, {"private": "yes"},
]  # fmt: skip

Attack = Callable[[], tuple[str, int | None]]  # what was sent, and the status of the answer


class Attacker:
    def __init__(self, dice: random.Random, stack: Stack, account: Account) -> None:
        values = stack.values()
        host, _, port = values["API_URL"].removeprefix("http://").partition(":")
        self.dice, self.address = dice, (host, int(port))
        self.key, self.token = values["PUBLISHABLE_KEY"], account.http.headers["authorization"].removeprefix("Bearer ")
        self.user = account.user
        self.attacks: list[Attack] = [
            self.broken_http, self.data, self.data, self.auth, self.auth, self.files, self.files, self.functions,
            self.upload, self.token_tricks, self.sockets, self.sockets, self.deep,
        ]  # fmt: skip

    # Sending ----------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, *, hang_up: bool = False) -> int | None:
        """The status of the answer; None if the connection was closed without one. Raises TimeoutError."""
        with socket.create_connection(self.address, ANSWER_SECONDS) as connection:
            with suppress(ConnectionError):
                connection.sendall(data)
            if hang_up:
                return None
            found = b""
            try:
                while b"\r\n" not in found:
                    part = connection.recv(65536)
                    if not part:
                        return None
                    found += part
            except ConnectionError:
                return None
            except TimeoutError:
                raise TimeoutError(repr(data[:300])) from None
        return int(found[9:12]) if found.startswith(b"HTTP/1.1 ") else None

    def request(self, path: str, method: str = "", body: bytes = b"", **headers: str) -> tuple[str, int | None]:
        method = method or self.dice.choice(METHODS)
        lines = {"host": "localhost", "apikey": self.key, "authorization": f"Bearer {self.token}", **headers}
        if self.dice.random() < 0.4:
            name = self.dice.choice(HEADERS)
            lines[name] = self.dice.choice([self.dice.choice(VALUES), self.text()]).replace("\r\n", " ")
        lines["content-length"] = str(len(body))
        lines["connection"] = "close"
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        data = head.encode("utf-8", "replace") + b"\r\n" + body
        return repr(data[:300]), self.send(data)

    def text(self) -> str:
        return self.dice.choice(TEXTS)

    def escaped(self) -> str:
        made = self.text()
        return made if "%" in made and self.dice.random() < 0.7 else quote(made, safe="*.,()/>-")

    def json_body(self) -> bytes:
        def value(depth: int) -> object:
            kind = self.dice.randrange(8)
            if depth and kind == 0:
                return {self.text()[:50]: value(depth - 1) for _ in range(3)}
            if depth and kind == 1:
                return [value(depth - 1) for _ in range(3)]
            return self.dice.choice([self.text(), self.text(), None, True, -1, 2**70, 1e308, self.user])

        names = ["email", "password", "data", "token", "type", "refresh_token", "phone", "code_challenge", "name", "id",
                 "prefix", "limit", "offset", "sortBy", "bucketId", "sourceKey", "destinationKey", "expiresIn", "paths",
                 "prefixes", "public", "file_size_limit", "allowed_mime_types", "messages", "nonce"]  # fmt: skip
        body = json.dumps({name: value(3) for name in self.dice.sample(names, 6)})
        body = body.replace("\\\\u", "\\u") if self.dice.random() < 0.5 else body
        whole: list[bytes] = [body.encode(), body.encode()[:-1], body.encode("utf-16"), b"\xff\xfe" + body.encode()]
        return self.dice.choice([whole[0], *whole, b"[" * 100_000, b'{"a":' * 50_000, b"", b"null", b"1" * 10_000])

    # Attacks ----------------------------------------------------------------------------------------------------------

    def broken_http(self) -> tuple[str, int | None]:
        path = self.dice.choice(["/rest/v1/leads", "/auth/v1/token", "/storage/v1/bucket", "/functions/v1/health", "/"])
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\napikey: {self.key}\r\n".encode()
        chunked = head + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        made = self.dice.choice([
            chunked + b"zz\r\n{}\r\n0\r\n\r\n", chunked + b"-1\r\n{}\r\n", chunked + b"ffffffffffffffffff\r\n{}",
            chunked + b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n", chunked + b"2\r\n{}0\r\n\r\n",
            chunked + b"2\r\n{}\r\n0\r\n" + b"x: y\r\n" * 5000 + b"\r\n", chunked + b"1\r\n{\r\n" * 5000,
            head + b"content-length: -1\r\n\r\n", head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
            head + b"content-length: 99999999999999999999\r\n\r\n{}", head + b"content-length: 1e3\r\n\r\n{}",
            head + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
            head + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", head + b"a: b\r\n" * 20_000 + b"\r\n",
            head + b"a: " + b"x" * 200_000 + b"\r\n\r\n", head + b"a\0b: c\r\n\r\n", head + b" folded: yes\r\n\r\n",
            head + b": empty\r\n\r\n", head + b"x" * 5000 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n",
            b"GET " + b"/a" * 40_000 + b" HTTP/1.1\r\n\r\n", b"\0" * 1000, b"\x16\x03\x01" + bytes(200),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET http://169.254.169.254/ HTTP/1.1\r\nhost: x\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 200,
            head + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n{}", head + b"upgrade: h2c\r\n\r\n",
            head + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", bytes(self.dice.randbytes(500)),
        ])  # fmt: skip
        incomplete = made == chunked + b"1\r\n{\r\n" * 5000 or b"99999999999999999999" in made or b"ffffffff" in made
        return repr(made[:300]), self.send(made, hang_up=incomplete)

    def data(self) -> tuple[str, int | None]:
        pairs = (f"{self.dice.choice(QUERIES)}={self.dice.choice(['eq.', 'in.(', 'not.', '', 'fts(', 'cs.{'])}"
                 f"{self.escaped()}" for _ in range(self.dice.randint(0, 3)))  # fmt: skip
        path = f"/rest/v1/{self.dice.choice(TABLES)}?{'&'.join(pairs)}"
        body = self.dice.choice([self.json_body(), b"a,b\n" + self.text().encode(), b"a=b&" * 5000, b'"' * 5000])
        kind = self.dice.choice(["application/json", "text/csv", "application/x-www-form-urlencoded", "text/plain"])
        return self.request(path, body=body, **{"content-type": kind})

    def deep(self) -> tuple[str, int | None]:
        depth = self.dice.choice([10, 23, 100, 3000])
        made = self.dice.choice([
            "select=" + "organizations(" * depth + "*" + ")" * depth,
            "select=" + ",".join(["organizations(*)"] * depth),
            "or=" + "(and" * depth + "(id.eq.1)" + ")" * depth, "id=in.(" + "1," * depth * 5 + "1)",
            "order=" + ",".join(["id.desc"] * depth), "select=" + ",".join(["id"] * depth),
            "&".join(f"id=not.eq.{n}" for n in range(depth)), "select=id" + "->a" * depth,
        ])  # fmt: skip
        return self.request(f"/rest/v1/leads?{made}", "GET")

    def auth(self) -> tuple[str, int | None]:
        return self.request(f"/auth/v1/{self.dice.choice(AUTH_PATHS)}", body=self.json_body())

    def files(self) -> tuple[str, int | None]:
        path = f"/storage/v1/{self.dice.choice(STORAGE_PATHS)}{self.user if self.dice.random() < 0.3 else ''}"
        body = self.dice.choice([self.json_body(), self.dice.randbytes(1000)])
        return self.request(f"{path}/{self.escaped()}", body=body)

    def functions(self) -> tuple[str, int | None]:
        return self.request(f"/functions/v1/{self.dice.choice(FUNCTION_PATHS)}?{self.escaped()}", body=self.json_body())

    def upload(self) -> tuple[str, int | None]:
        edge = b"--edge\r\n"
        part = (
            b'content-disposition: form-data; name="f"; filename="../../x\0.txt"\r\ncontent-type: text/plain\r\n\r\nx'
        )
        made = self.dice.choice([
            edge + part + b"\r\n--edge--\r\n", edge + part, (edge + part + b"\r\n") * 3000 + b"--edge--\r\n",
            edge + b"content-disposition: form-data; " + b"x" * 100_000, edge * 1000, b"--edge--", b"", b"\r\n" * 5000,
            edge + b"a: b\r\n" * 5000 + b"\r\n", edge + b'content-disposition: form-data; name="metadata"\r\n\r\n{"a":',
            edge + part + b"\0" * 20_000_000 + b"\r\n--edge--\r\n",
        ])  # fmt: skip
        kind = self.dice.choice(
            ["multipart/form-data; boundary=edge", "multipart/form-data", "multipart/form-data; boundary="]
        )
        path = f"/storage/v1/object/avatars/{self.user}/{self.escaped()}"
        return self.request(path, self.dice.choice(["POST", "PUT"]), made, **{"content-type": kind})

    def token_tricks(self) -> tuple[str, int | None]:
        head, body, signature = self.token.split(".")

        def encoded(value: object) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

        claims = {"role": "service_role", "exp": 2**40, "sub": self.user}
        made = self.dice.choice([
            f"{encoded({'alg': 'none'})}.{encoded(claims)}.", f"{encoded({'alg': 'NoNe'})}.{encoded(claims)}.x",
            f"{encoded({'alg': 'HS256', 'kid': '../../dev/null'})}.{encoded(claims)}.{signature}",
            f"{encoded({'alg': 'ES256', 'jwk': {}, 'jku': 'http://x'})}.{encoded(claims)}.{signature}",
            f"{encoded({'alg': ['ES256']})}.{body}.{signature}", f"{encoded([])}.{body}.{signature}",
            f"{head}.{encoded(claims)}.{signature}", f"{head}.{body}.{'A' * 86}", f"{head}.{body}.", "..", "a.b.c",
            jwt.encode(claims, "secret" * 10, "HS256"), f"{head}.{body}.{signature}" * 50, "." * 5000,
            f"{encoded({'alg': 'ES256', 'crit': ['x'], 'b64': False})}.{body}.{signature}", "[" * 10_000,
            base64.urlsafe_b64encode(b"[" * 30_000).decode() + f".{body}.{signature}",
        ])  # fmt: skip
        path = self.dice.choice(["/rest/v1/leads", "/auth/v1/user", "/storage/v1/bucket", "/realtime/v1/api/broadcast",
                                 "/storage/v1/object/sign/attachments/x?token=" + quote(made)])  # fmt: skip
        return self.request(path, "GET", authorization=f"Bearer {made}")

    def sockets(self) -> tuple[str, int | None]:
        """A WebSocket that sends broken frames; then the connection must be closed or still answer."""
        version = self.dice.choice(["1.0.0", "2.0.0", "3", ""])
        path = f"/realtime/v1/websocket?apikey={self.key}&vsn={version}"
        lines = [
            f"GET {path} HTTP/1.1", "host: x", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13",
            "sec-websocket-extensions: permessage-deflate", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", "", "",
        ]  # fmt: skip
        frames = b"".join(self.frame() for _ in range(self.dice.randint(1, 6)))
        with socket.create_connection(self.address, ANSWER_SECONDS) as connection:
            connection.sendall("\r\n".join(lines).encode())
            found = connection.recv(65536)
            if b" 101 " not in found[:16]:
                return path, int(found[9:12]) if found.startswith(b"HTTP/1.1 ") else None
            with suppress(ConnectionError):
                connection.sendall(frames + _frame(1, _message(version, "phoenix", "heartbeat", {})))
                connection.settimeout(0.2)
                with suppress(TimeoutError):
                    while connection.recv(65536):
                        pass
        return path, 101

    def frame(self) -> bytes:
        version = self.dice.choice(["1.0.0", "2.0.0"])
        topic = self.dice.choice(["realtime:x", "realtime:" + self.text(), self.text(), f"realtime:user:{self.user}"])
        event = self.dice.choice(
            ["phx_join", "phx_join", "phx_leave", "access_token", "broadcast", "presence", self.text()]
        )
        payload: object = {
            "config": self.dice.choice(JOIN_CONFIGS),
            "access_token": self.dice.choice([self.token, "x.y.z", 5]),
        }
        if event in {"broadcast", "presence"}:
            payload = {
                "type": event,
                "event": self.dice.choice(["track", "x", 5]),
                "payload": self.dice.choice([{}, 5, [1]]),
            }
        text = _message(version, topic, event, payload)
        return self.dice.choice([
            _frame(1, text), _frame(1, text), _frame(1, text), _frame(2, bytes([3, 1, 1, 5, 1, 0, 1]) + text),
            _frame(2, self.dice.randbytes(50)), _frame(3, b"x"), _frame(11, b"x"), _frame(1, b"\xff\xfe\xfd"),
            _frame(9, b"x" * 200), _frame(8, b"\x00\x01"), _frame(8, struct.pack(">H", 999) + b"\xff"),
            _frame(1, text, bits=0x40), _frame(1, text, bits=0x30), _frame(0, text), bytes([0x81, 5]) + b"plain",
            bytes([0x81, 0xFF]) + b"\xff" * 8 + bytes(4), _frame(1, b"x" * 5_000_000), _frame(1, b"[" * 200_000),
            bytes([0x01, 0x81]) + bytes(4) + b"a" + bytes([0x89, 0xFE, 0, 200]) + bytes(204),
        ])  # fmt: skip


def _frame(opcode: int, data: bytes, *, bits: int = 0) -> bytes:
    size = len(data)
    length = (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + struct.pack(">H", size)
        if size < 65536
        else b"\xff" + struct.pack(">Q", size)
    )
    return bytes([0x80 | bits | opcode]) + length + bytes(4) + data


def _message(version: str, topic: str, event: str, payload: object) -> bytes:
    if version == "2.0.0":
        return json.dumps(["1", "1", topic, event, payload]).encode()
    return json.dumps({"topic": topic, "event": event, "payload": payload, "ref": "1"}).encode()


def run(attacker: Attacker, until: float, counts: Counter[str], wrong: list[dict[str, str]]) -> None:
    while time.monotonic() < until:
        attack = attacker.dice.choice(attacker.attacks)
        try:
            sent, status = attack()
        except TimeoutError as error:
            late = f"none within {ANSWER_SECONDS} s"
            wrong.append({"attack": attack.__name__, "sent": str(error), "response": late})
            continue
        except ConnectionError:
            sent, status = "", None
        counts["closed" if status is None else str(status) if status >= 500 else f"{status // 100}xx"] += 1
        if status and status >= 500 and status not in DOCUMENTED:
            wrong.append({"attack": attack.__name__, "sent": sent, "response": str(status)})


def keep_slow(address: tuple[str, int], until: float) -> None:
    """Sockets that never finish what they began; the API ends them."""
    starts = [b"GET / HTTP/1.1\r\n", b"POST /auth/v1/token HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{", b""]
    held: list[socket.socket] = []
    while time.monotonic() < until:
        with suppress(OSError):
            held.append(socket.create_connection(address, 5))
            held[-1].sendall(starts[len(held) % 3])
        if len(held) > SLOW_SOCKETS:
            held.pop(0).close()
        time.sleep(0.2)  # the rate of new slow sockets; no result depends on it
    for each in held:
        each.close()


def memory(stack: Stack) -> float:
    process = stack.processes()["api"]
    return process.memory_info().rss / 2**20 if isinstance(process, psutil.Process) else 0.0


def ordinary(account: Account) -> list[str]:
    """What fails of requests that any client sends."""
    account.sign_in()
    paths = [
        "/rest/v1/leads?select=id&limit=1",
        "/auth/v1/user",
        "/storage/v1/bucket",
        "/functions/v1/openapi.json",
        "/health",
    ]
    return [f"{path}: {found}" for path in paths if (found := account.http.get(path).status_code) != 200]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    counts: Counter[str] = Counter()
    wrong: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, running(Path(folder)) as stack:
        account = Account(stack.values(), "hostile")
        account.found(stack, "ELITE")
        attackers = [Attacker(random.Random(seed + hand), stack, account) for hand in range(HANDS)]
        run(attackers[0], time.monotonic() + 5, Counter(), [])  # what is loaded once is no growth
        before = memory(stack)
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=run, args=(each, until, counts, wrong)) for each in attackers]
        threads.append(threading.Thread(target=keep_slow, args=(attackers[0].address, until)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = memory(stack)
        failed = ordinary(account)
        log = stack.log("api").read_text(errors="replace")
    figures = {
        "seed": seed, "responses": dict(counts), "undocumented": len(wrong), "tracebacks": log.count("Traceback"),
        "memory_before_mb": round(before), "memory_after_mb": round(after), "failed_afterwards": failed,
        "examples": wrong[:40], "last_traceback": log[log.rfind("Traceback") :][:3000] if "Traceback" in log else "",
    }  # fmt: skip
    print(json.dumps(figures, indent=2))
    sys.exit(bool(wrong or failed or after - before > GROWTH_MB))


if __name__ == "__main__":
    main()
