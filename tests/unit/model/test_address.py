from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farmhand import errors
from farmhand.model.address import PORT_DEFAULT, Address, parse_address

PIN = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("server", Address("nats", "server", PORT_DEFAULT)),
        (" server:99 ", Address("nats", "server", 99)),
        ("tls://server", Address("tls", "server", PORT_DEFAULT)),
        ("ws://server", Address("ws", "server", 80)),
        ("wss://server", Address("wss", "server", 443)),
        ("nats://[::1]:7", Address("nats", "::1", 7)),
        (f"tls://to%2Fken@server:5?pin={PIN}", Address("tls", "server", 5, "to/ken", PIN)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "  ", "http://server", "nats://", "server:port", "server:99999", "tls://s?pin=md5:1",
                                  "nats://[::1", "tls://s?pin=sha256:00"])  # fmt: skip
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(errors.BadAddress):
        parse_address(text)


@settings(max_examples=100, deadline=None)
@given(st.text() | st.text("ntlsw:/@?=[].%0129", max_size=30))
def test_any_text_is_an_address_or_a_bad_address(text: str) -> None:
    try:
        address = parse_address(text)
    except errors.BadAddress:
        return
    assert address.host
    assert 0 < address.port < 65536
    assert "/" not in address.key


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["nats", "tls", "ws", "wss"]), st.from_regex(r"[a-z][a-z0-9.-]{0,20}[a-z0-9]", fullmatch=True),
       st.integers(1, 65535), st.from_regex(r"[A-Za-z0-9_-]{0,40}", fullmatch=True), st.sampled_from(["", PIN]))  # fmt: skip
def test_a_join_line_is_read_back(scheme: str, host: str, port: int, token: str, pin: str) -> None:
    address = Address(scheme, host, port, token, pin)
    assert parse_address(address.join_line()) == address
    assert parse_address(str(address)) == Address(scheme, host, port)


def test_an_address_knows_what_it_is() -> None:
    six = Address("tls", "::1", 7, "t")
    assert str(six) == "tls://[::1]:7"
    assert six.join_line() == "tls://t@[::1]:7"
    assert six.key == "--1_7"
    assert six.encrypted
    assert six.loopback
    assert Address("nats", "127.3.3.3", 1).loopback
    assert not Address("nats", "server", 1).loopback
    assert not Address("ws", "server", 1).encrypted
