from __future__ import annotations

import pytest

from farmhand.client.output import OutputPrinter
from farmhand.engine.wire import Msg
from farmhand.model.messages import Output, encode


def message(text: str, msg_id: str = "") -> Msg:
    head = f"NATS/1.0\r\nNats-Msg-Id: {msg_id}\r\n\r\n".encode() if msg_id else b""
    return Msg("ses.k1.out.n1", "", head=head, data=encode(Output(5, 0, "n1", 0, "f", ((1, text),), number=3)))


def test_a_line_that_is_sent_again_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    printer = OutputPrinter()
    for text, msg_id in [
        ("a", "i.1"),
        ("b", "i.2"),
        ("a", "i.1"),
        ("b", "i.2"),
        ("c", "i.3"),
        ("d", "other.1"),
        ("e", ""),
    ]:
        printer.on_message(message(text, msg_id))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"[f #3 n1/0] {text}" for text in "abcde"]
