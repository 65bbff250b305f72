"""Connections to addresses that users chose: only public ones, checked when the connection is made.

The name is resolved here, and the connection goes to the address that was checked, so a name that changes its address
in between reaches nothing. Redirects are responses like any other, and no proxy of the environment is used.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

import httpcore

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]
# IPv4 addresses inside of IPv6 ones, which a gateway translates.
TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# Global by their form, yet inside of a cloud: metadata of Oracle and Azure, and relays of 6to4.
NOT_FOR_WEBHOOKS = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"), IPv4Network("192.88.99.0/24"))


class ForbiddenAddressError(Exception):
    """The address is private, or http outside of an allowed network."""


def is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if any(address in network for network in TRANSLATED):
            return False
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner:
            return is_public(inner)
        if address.is_site_local:
            return False
    elif any(address in network for network in NOT_FOR_WEBHOOKS):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses of `allowed` networks, and with `public` to public ones."""

    def __init__(self, allowed: Networks, lookups: ThreadPoolExecutor, *, public: bool) -> None:
        self._allowed = allowed
        self._public = public
        self._sockets = httpcore.AnyIOBackend()
        self._lookups = lookups

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        # A private address among public ones is treated as an attack.
        for address in addresses:
            if not ((self._public and is_public(address)) or self._is_allowed(address)):
                why = "which is not public" if self._public else "and only https is accepted"
                raise ForbiddenAddressError(f"{host} has the address {address}, {why}")
        *others, last = addresses
        for address in others:
            with suppress(httpcore.ConnectError):
                return await self._sockets.connect_tcp(str(address), port, timeout, local_address, socket_options)
        return await self._sockets.connect_tcp(str(last), port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: object, **__: object) -> httpcore.AsyncNetworkStream:
        raise ForbiddenAddressError("a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[Address]:
        lookup = partial(socket.getaddrinfo, host.strip("[]"), port, type=socket.SOCK_STREAM)
        entries = await asyncio.get_running_loop().run_in_executor(self._lookups, lookup)
        return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]

    def _is_allowed(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._allowed)


@cache
def trusted() -> ssl.SSLContext:
    """The certificates that https trusts. Reading them takes longer than other requests may wait: use a thread."""
    return httpcore.default_ssl_context()


class Connections:
    """Pools that send one request at a time per connection and follow nothing. http is for allowed networks only."""

    def __init__(self, allowed: Networks, most: int, trusted: ssl.SSLContext | None = None) -> None:
        # One thread for each connection: a name server that hangs delays no other connection.
        self._lookups = ThreadPoolExecutor(most, "lookup")
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                trusted,
                max_connections=most,
                max_keepalive_connections=most,
                keepalive_expiry=5.0,
                network_backend=PublicBackend(allowed, self._lookups, public=scheme == b"https"),
            )
            for scheme in (b"https", b"http")
        }

    async def post(self, url: str, headers: dict[str, str], body: bytes, *, most_bytes: int) -> tuple[int, bytes]:
        """The status and the beginning of the response."""
        target = httpcore.URL(url)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        host = urlsplit(url).netloc.encode()
        async with self._pools[target.scheme].stream(
            "POST", target, headers=[(b"host", host), (b"content-length", b"%d" % len(body)), *raw], content=body
        ) as response:
            read = b""
            async for part in response.aiter_stream():
                read += part
                if len(read) >= most_bytes:
                    break
            return response.status, read[:most_bytes]

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        self._lookups.shutdown(wait=False, cancel_futures=True)
