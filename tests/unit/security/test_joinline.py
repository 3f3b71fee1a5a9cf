"""Join lines: what is written can be read, and what is wrong is named without showing the token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farmhand import errors
from farmhand.model.address import Address
from farmhand.security.joinline import JoinLine, new_token, parse_join_line

TOKEN = "0123456789abcdefXYZ_-"
PIN = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "line",
    [
        JoinLine(Address("tls", "server", 4222), TOKEN, PIN),
        JoinLine(Address("tls", "2001:db8::1", 9), TOKEN, PIN),
        JoinLine(Address("nats", "127.0.0.1", 4222), TOKEN),
        JoinLine(Address("nats", "::1", 4222), TOKEN),
        JoinLine(Address("ws", "localhost", 8080), TOKEN),
        JoinLine(Address("wss", "farm.example.org", 443), TOKEN),
        JoinLine(Address("wss", "10.0.0.5", 443), TOKEN, PIN),
        JoinLine(Address("nats", "10.0.0.5", 4222), TOKEN, insecure_plaintext=True),
        JoinLine(Address("tls", "server", 4222), TOKEN, PIN, server=True),
        JoinLine(Address("nats", "127.0.0.1", 4222), TOKEN, server=True),
    ],
    ids=str,
)
def test_a_line_can_be_read_back(line: JoinLine) -> None:
    assert parse_join_line(str(line)) == line
    assert TOKEN in str(line)
    assert TOKEN not in repr(line)


def test_how_it_looks() -> None:
    assert str(JoinLine(Address("tls", "server", 4222), TOKEN, PIN)) == f"tls://{TOKEN}@server:4222?pin={PIN}"
    assert str(JoinLine(Address("nats", "127.0.0.1", 4222), TOKEN)) == f"nats://{TOKEN}@127.0.0.1:4222"


@pytest.mark.parametrize(("scheme", "port"), [("tls", 4222), ("wss", 443)])
def test_the_default_port(scheme: str, port: int) -> None:
    assert parse_join_line(f"{scheme}://{TOKEN}@server?pin={PIN}").address.port == port


def test_blanks_quotes_and_capitals_from_copying_do_no_harm() -> None:
    line = f"tls://{TOKEN}@server:4222?pin={PIN}"
    assert str(parse_join_line(f" '{line}'\n")) == line
    assert str(parse_join_line(line.replace(PIN, PIN.upper().replace("SHA", "sha")))) == line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no scheme"),
        (f"{TOKEN}@server:4222", "no scheme"),
        (f"http://{TOKEN}@server:4222", "scheme"),
        ("tls://server:4222", "no token"),
        (f"tls://@server:4222?pin={PIN}", "no token"),
        (f"tls://user:{TOKEN}@server:4222?pin={PIN}", "password"),
        (f"tls://{TOKEN[:8]}@server:4222?pin={PIN}", "token was cut off"),
        (f"tls://{TOKEN}@:4222?pin={PIN}", "host"),
        (f"tls://{TOKEN}@server:99999?pin={PIN}", "[Pp]ort"),
        (f"tls://{TOKEN}@server:x?pin={PIN}", "[Pp]ort"),
        (f"tls://{TOKEN}@[::1:4222?pin={PIN}", "IPv6"),
        (f"tls://{TOKEN}@server:4222", "no pin"),
        (f"tls://{TOKEN}@server:4222?pin=", "pin was cut off"),
        (f"tls://{TOKEN}@server:4222?pin={PIN[:-1]}", "pin was cut off"),
        (f"tls://{TOKEN}@server:4222?pin=md5:00", "pin was cut off"),
        (f"tls://{TOKEN}@server:4222?pin={PIN}&pin={PIN}", "twice"),
        (f"tls://{TOKEN}@server:4222?pim={PIN}", "'pim'"),
        (f"tls://{TOKEN}@server:4222/x?pin={PIN}", "after its port"),
        (f"tls://{TOKEN}@server:4222?pin={PIN}#x", "after its port"),
        (f"nats://{TOKEN}@127.0.0.1:4222?pin={PIN}", "plain text"),
        (f"nats://{TOKEN}@127.0.0.1:4222?insecure=yes", "insecure"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(errors.BadAddress, match=says) as caught:
        parse_join_line(text)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("scheme", ["nats", "ws"])
@pytest.mark.parametrize("host", ["10.0.0.5", "server", "127.example.org"])
def test_a_token_is_not_sent_in_plain_text_off_loopback(scheme: str, host: str) -> None:
    with pytest.raises(errors.PlaintextRefused, match="--insecure-plaintext"):
        parse_join_line(f"{scheme}://{TOKEN}@{host}:4222")


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    for start in ("", "tls://", f"tls://{TOKEN}@", f"tls://{TOKEN}@server?"):
        try:
            line = parse_join_line(start + text)
        except (errors.BadAddress, errors.PlaintextRefused):
            continue
        assert parse_join_line(str(line)) == line


def test_tokens_differ_and_fit() -> None:
    one, two = new_token(), new_token()
    assert one != two
    assert parse_join_line(f"nats://{one}@127.0.0.1").token == one
