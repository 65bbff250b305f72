"""The address of the client, for rate limits and logs: the only place that reads X-Forwarded-For.

Each proxy appends the address from which it got the request; the client may have sent any entries before those.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from shared.settings import TrustedProxies

# A client sends any number of entries, in front of those of the proxies.
MOST_PROXIES = 20


@lru_cache(1024)  # a client has one address
def client_address(forwarded: bytes, peer: str | None, trusted: TrustedProxies) -> str | None:
    """The last address that a trusted proxy, or the connection itself, vouches for.

    `trusted` is how many proxies of ours a request passes, or their networks.
    """
    newest = forwarded.decode("latin-1").rsplit(",", MOST_PROXIES)[-MOST_PROXIES:]
    addresses = [_parse(entry) for entry in [*filter(str.strip, newest), peer or ""]]
    if isinstance(trusted, int):
        # The connection is from the last proxy. A shorter chain than expected: the request came past the outer proxies.
        found = addresses[max(0, len(addresses) - 1 - trusted)]
    else:
        found = addresses[-1]
        for address in reversed(addresses):
            found = address
            if address is None or not _is_in(address, trusted):
                break
    return str(found) if found else None


def _parse(entry: str) -> IPv4Address | IPv6Address | None:
    text = entry.strip()
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
