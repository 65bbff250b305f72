"""The client's address behind proxies: only entries that a trusted proxy appended count."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.app.client_address import client_address
from shared.settings import TrustedProxies

GOOGLE = (ip_network("35.191.0.0/16"), ip_network("169.254.0.0/16"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("forwarded", "peer", "trusted", "expected"),
    [
        # Cloud Run without a balancer: `client`.
        ("203.0.113.7", "169.254.1.1", 1, "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7", "169.254.1.1", 1, "203.0.113.7"),
        # Cloud Run behind Google's balancer: `client, balancer`.
        ("203.0.113.7, 35.191.0.9", "169.254.1.1", 2, "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7,35.191.0.9", "169.254.1.1", 2, "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7, 35.191.0.9", "169.254.1.1", GOOGLE, "203.0.113.7"),
        ("203.0.113.7", "198.51.100.4", GOOGLE, "198.51.100.4"),  # the connection is not from a proxy
        # No proxy: the header is the client's own claim.
        ("203.0.113.7", "198.51.100.4", 0, "198.51.100.4"),
        ("", "198.51.100.4", 2, "198.51.100.4"),
        # Forms of an address.
        ("[2001:db8::1]:4711", "::1", 1, "2001:db8::1"),
        ("203.0.113.7:4711", "::1", 1, "203.0.113.7"),
        ("::ffff:203.0.113.7", "::1", 1, "203.0.113.7"),
        ("unknown", "::1", 1, None),
        ("", None, 1, None),
    ],
)
def test_client_address(forwarded: str, peer: str | None, trusted: TrustedProxies, expected: str | None) -> None:
    assert client_address(forwarded.encode(), peer, trusted) == expected


@given(st.text(st.characters(max_codepoint=255)), st.sampled_from([0, 1, 2, 9, GOOGLE]))
def test_any_header_gives_an_address_or_nothing(forwarded: str, trusted: TrustedProxies) -> None:
    client_address(forwarded.encode("latin-1"), "198.51.100.4", trusted)


@given(st.text(st.characters(max_codepoint=127)))
def test_attack_forged_entries_change_nothing(forged: str) -> None:
    chain = f"{forged}, 203.0.113.7, 35.191.0.9".encode()
    assert client_address(chain, "169.254.1.1", 2) == "203.0.113.7"
    assert client_address(chain, "169.254.1.1", GOOGLE) == "203.0.113.7"
