"""Messages of a neighbouring version: with fields that we do not know, without those that it does not know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.model.test_messages import CODECS, EXAMPLES

from farmhand import errors
from farmhand.model import messages, peers
from farmhand.model.messages import Profile, Report, Work, encode
from farmhand.model.outcome import Kind

OWN, NEXT = messages.PROTOCOL, messages.PROTOCOL + 1
HEADS = {"read_preamble", "read_work_head", "read_report_head"}
STRUCTS = {name: EXAMPLES[name] for name in sorted(set(CODECS) - HEADS - {"read_holdings"})}


def newer(value: Any) -> Any:
    """As a version would send it that has one more field in each message and in what is within."""
    if isinstance(value, msgspec.Struct):
        fields = {name: newer(getattr(value, name)) for name in value.__struct_fields__}
        if value.__struct_config__.array_like:
            return [*fields.values(), {"new": [1, None]}]
        return fields | {"new": [1, None]}
    if isinstance(value, tuple):
        return [newer(each) for each in value]
    return value


def older(value: msgspec.Struct) -> Any:
    """As a version would send it that does not know the last field."""
    fields = {name: getattr(value, name) for name in value.__struct_fields__[:-1]}
    return list(fields.values()) if value.__struct_config__.array_like else fields


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_of_a_newer_version_are_passed_over(name: str) -> None:
    assert CODECS[name](encode(newer(STRUCTS[name]))) == STRUCTS[name]


@pytest.mark.parametrize("name", STRUCTS)
def test_a_field_that_an_older_version_lacks_has_its_default(name: str) -> None:
    example = STRUCTS[name]
    last = msgspec.structs.fields(example)[-1]
    if last.required:  # it was there from the beginning: a message without it is none
        with pytest.raises(errors.BadMessage):
            CODECS[name](encode(older(example)))
    else:
        found = CODECS[name](encode(older(example)))
        assert getattr(found, last.name) == last.default
        assert older(found) == older(example)


def test_the_last_fields_that_are_not_optional_are_these() -> None:
    """A field that is added later must have a default. These messages have had none added since the first version."""
    required = {name for name, example in STRUCTS.items() if msgspec.structs.fields(example)[-1].required}
    assert required == {"read_join", "read_lane_request", "read_server_request"}


def test_who_is_older_is_told_to_be_updated() -> None:
    peers.check_peer("the farm", "9", messages.PROTOCOL, "this client")
    with pytest.raises(
        errors.VersionMismatch,
        match=rf"the farm runs Farmhand 9.0 \(protocol {NEXT}\), this client .*: update this client$",
    ):
        peers.check_peer("the farm", "9.0", NEXT, "this client")
    with pytest.raises(
        errors.VersionMismatch, match=r"the farm runs Farmhand 0.0.1 \(protocol 0\), .*: update the farm$"
    ):
        peers.check_peer("the farm", "0.0.1", 0, "this client")


def test_work_of_another_protocol_can_be_refused_whatever_is_in_it() -> None:
    strange = encode([NEXT, "k1", 7, 3, "no profile", None])
    assert peers.readable_work(strange) == Work(NEXT, "k1", 7, 3, Profile(""))
    good = msgspec.structs.replace(EXAMPLES["read_work"], protocol=OWN)
    assert peers.readable_work(encode(good)) == good
    with pytest.raises(errors.BadMessage):
        peers.readable_work(encode([OWN, "k1"]))


def test_a_report_of_another_protocol_ends_its_tasks() -> None:
    found = peers.readable_report(encode([NEXT, 7, 4, 2, "barn", 1, "no marks"]))
    assert (found.protocol, found.token, found.first, found.count, found.node) == (messages.PROTOCOL, 7, 4, 2, "barn")
    assert [(mark.index, mark.kind) for mark in found.marks] == [(4, Kind.REFUSED), (5, Kind.REFUSED)]
    assert f"node barn runs protocol {NEXT}" in found.marks[0].text
    good = Report(messages.PROTOCOL, 7, 0, 1, "barn", 0)
    assert peers.readable_report(encode(good)) == good
