"""The reference says what the code says."""

from __future__ import annotations

import ast
import enum
import inspect
import os
import re
from pathlib import Path

import pytest
from tests.docs.generated import COMMAND, PARTS, SOURCE, with_part
from tests.docs.markdown import DOCS, rows, section

import farmhand
from farmhand import AsyncFarm, Environment, Farm, FarmFuture, Retry, Session, SessionOptions, errors, join
from farmhand.code.limits import BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX
from farmhand.engine import streams, subjects
from farmhand.model import limits, messages
from farmhand.node.inprocess import InProcessNode
from farmhand.security.permissions import Role

PYTHON = DOCS / "reference" / "python.md"
SIGNATURES = {
    "Farm": Farm,
    "Farm.submit": Farm.submit,
    "Farm.map": Farm.map,
    "Farm.options": Farm.options,
    "Farm.shutdown": Farm.shutdown,
    "Farm.status": Farm.status,
    "Farm.progress": Farm.progress,
    "Farm.attach": Farm.attach,
    "Session.named": Session.named,
    "Session.detach": Session.detach,
    "SessionOptions": SessionOptions,
    "AsyncFarm": AsyncFarm,
    "AsyncFarm.submit": AsyncFarm.submit,
    "AsyncFarm.map": AsyncFarm.map,
    "AsyncFarm.as_completed": AsyncFarm.as_completed,
    "AsyncFarm.progress": AsyncFarm.progress,
    "AsyncFarm.options": AsyncFarm.options,
    "AsyncFarm.shutdown": AsyncFarm.shutdown,
    "AsyncFarm.status": AsyncFarm.status,
    "FarmFuture.running": FarmFuture.running,
    "FarmFuture.cancel": FarmFuture.cancel,
    "FarmFuture.kill": FarmFuture.kill,
    "Environment": Environment,
    "Retry": Retry,
    "join": join,
    "InProcessNode.wait": InProcessNode.wait,
    "InProcessNode.leave": InProcessNode.leave,
}


def shown(name: str, thing: object) -> str:
    """The signature without annotations and without `self`."""
    signature = inspect.signature(thing)  # type: ignore[arg-type]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name != "self"]
    text = str(inspect.Signature(plain))
    return name + text.replace("(/, ", "(")


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    wanted = shown(name, SIGNATURES[name])
    assert wanted in PYTHON.read_text(encoding="utf-8").splitlines(), wanted


def test_public_names_are_all_there() -> None:
    first = PYTHON.read_text(encoding="utf-8").partition("```text\n")[2].partition("\n```")[0]
    assert set(re.findall(r"\w+", first.partition("import")[2])) == set(farmhand.__all__)
    public = {name for name in vars(Farm) if not name.startswith("_")} | {"submit", "map", "options"}
    assert public == {name.partition(".")[2] for name in SIGNATURES if name.startswith("Farm.")} | {"session"}


def test_every_error_is_in_the_tree() -> None:
    tree = section(PYTHON, "Errors")
    classes = [kind.__name__ for kind in vars(errors).values() if getattr(kind, "__module__", "") == errors.__name__]
    assert [name for name in classes if not re.search(rf"\b{name}\b", tree)] == []


@pytest.mark.parametrize("name", PARTS)
def test_what_is_made_from_the_code_is_up_to_date(name: str) -> None:
    path, make = PARTS[name]
    page = path.read_text(encoding="utf-8")
    assert page == with_part(page, name, make()), f"{path} is older than the code; run: {COMMAND}"


def test_environment_variables() -> None:
    used = set()
    for path in SOURCE.rglob("*.py"):
        used |= set(re.findall(r"\bFARMHAND_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    described = {
        name.strip("`") for name, *_ in rows((DOCS / "reference" / "environment.md").read_text(encoding="utf-8"))
    }
    assert used == described


def test_roles() -> None:
    described = {row[0] for row in rows(section(DOCS / "reference" / "security.md", "Roles"))}
    assert described == {role.value for role in Role}


def test_streams() -> None:
    page = section(DOCS / "reference" / "protocol.md", "Streams")
    made = {d["name"]: d["subjects"] for d in streams.definitions(0, 1)}
    assert {row[0].strip("`"): re.findall(r"[\w.*]+", row[1]) for row in rows(page)} == made
    assert f"{streams.WORK_SHARE * 100:.0f} % each" in page


def test_subjects() -> None:
    """Every subject that the code names is in the table, and the other way round."""
    tree = ast.parse((SOURCE / "engine" / "subjects.py").read_text(encoding="utf-8"))
    code = {_pattern(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)}
    code |= {str(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant) and str(n.value).startswith("farm.")}
    code -= {"lane-*"}  # a consumer
    table = [row[0].strip("`") for row in rows(section(DOCS / "reference" / "protocol.md", "Subjects"))]
    described = {re.sub(r"\b[A-Z]+\b", "*", subject) for subject in table}
    assert code | {"node.*.bye", "_INBOX.*.*.*"} == described


def test_subjects_of_a_cluster() -> None:
    table = {row[0].strip("`") for row in rows(section(DOCS / "reference" / "protocol.md", "A cluster"))}
    named = {subjects.USERS, subjects.LEASE, subjects.USERS_READ, subjects.SERVER_JOIN, subjects.TERM}
    assert table == named | {subjects.api("cluster")}


def _pattern(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)


def test_every_verb_of_the_steward_is_named() -> None:
    service = (SOURCE / "steward" / "service.py").read_text(encoding="utf-8")
    verbs = set(re.findall(r'"([\w-]+)": self\._', service))
    named = re.search(r"verbs ((?:`[\w-]+`(?:, )?)+)", (DOCS / "reference" / "protocol.md").read_text(encoding="utf-8"))
    assert named
    assert set(re.findall(r"[\w-]+", named[1])) == verbs


def test_fields_of_a_task_error() -> None:
    described = {name for row in rows(section(DOCS / "how-to" / "failures.md", "The fields of a TaskError"))
                 for name in re.findall(r"\w+", row[0])}  # fmt: skip
    assert described == set(errors.TaskError.__annotations__)


def test_every_task_error_is_among_the_outcomes() -> None:
    page = (DOCS / "how-to" / "failures.md").read_text(encoding="utf-8")
    for kind in errors.TaskError.__subclasses__():
        assert f"`{kind.__name__}`" in page


def test_guarded_places_are_named() -> None:
    """A module that asks which system it is on is on the page of platforms."""
    guard = re.compile(r"\bos\.name\b|\bsys\.platform (?:==|!=)|NotImplementedError, AttributeError")
    guarded = {str(path.relative_to(SOURCE)).replace(os.sep, "/") for path in SOURCE.rglob("*.py")
               if guard.search(path.read_text(encoding="utf-8"))}  # fmt: skip
    page = (DOCS / "platforms.md").read_text(encoding="utf-8")
    # The name of a program, a check that is left out, the unit of a figure.
    allowed = {"engine/server_binary.py", "doctor/machine_steps.py", "bench/solo.py"}
    assert {name for name in guarded - allowed if f"`{name}`" not in page} == set()


NUMBERS = [
    ("how-to/failures.md", f"at most {limits.TAIL_LINES} lines and {limits.TAIL_BYTES:,} bytes"),
    ("how-to/output-and-logging.md", f"The last {limits.TAIL_LINES} lines ({limits.TAIL_BYTES:,} bytes at most)"),
    ("how-to/output-and-logging.md", f"may send {limits.OUTPUT_LINES_PER_S:,} lines a second"),
    ("how-to/large-data.md", f"below {limits.INLINE_BYTES_MAX // 1024} KiB"),
    (
        "how-to/large-data.md",
        f"at most {limits.BLOB_CHUNKS_AHEAD * limits.CHUNK_BYTES // limits.MB} MiB of a value are under way",
    ),
    ("how-to/map-over-generators.md", f"up to {limits.MAP_AHEAD:,} calls"),
    ("how-to/needs-and-options.md", f"measured every {limits.MEMORY_CHECK_S:g} s"),
    ("how-to/own-modules.md", f"{BUNDLE_BYTES_MAX // limits.MB} MiB and {BUNDLE_FILES_MAX:,} files"),
    ("how-to/environments.md", f"not used for {limits.ENVIRONMENT_AGE_S / 86400:g} days"),
    (
        "how-to/environments.md",
        f"more than {limits.ENVIRONMENTS_MAX}, or more than {limits.ENVIRONMENTS_BYTES_MAX >> 30} GB",
    ),
    ("how-to/environments.md", f"For {limits.ENVIRONMENT_FAILED_S:g} s after a failure"),
    ("how-to/drain-a-node.md", f"its grace: {limits.GRACE_S:g} s"),
    ("how-to/drain-a-node.md", f"after {limits.NODE_SILENCE_S:g} s of silence"),
    ("how-to/several-machines.md", f"pinged every {limits.PING_INTERVAL_S:g} s"),
    ("reference/protocol.md", f"The protocol number is {messages.PROTOCOL};"),
    ("how-to/looking-back.md", f"beyond {limits.PEEK_MAX} messages"),
    ("reference/cli.md", f"from the first {limits.PEEK_MAX} messages"),
    ("reference/cli.md", f"deeper than {limits.EXPLAIN_MAX} messages"),
    ("how-to/looking-back.md", f"kept for {limits.LOG_KEEP_S / 86400:g} days"),
    ("reference/protocol.md", f"at\nmost {limits.LOG_BYTES_MAX // 1024 // limits.MB} GiB"),
    ("how-to/looking-back.md", f"up to {limits.OUTPUT_UNSTORED_BYTES_MAX // limits.MB} MiB of lines"),
    ("reference/protocol.md", f"(`LOG`: {limits.LOG_DEDUPE_S:g} s)"),
    ("reference/protocol.md", f"a dedupe window of {limits.DEDUPE_WINDOW_S:g} s"),
    ("reference/protocol.md", f"waits {limits.ACK_WAIT_S:g} s for a renewal"),
    ("reference/protocol.md", f"renews it each {limits.RENEW_S:g} s"),
    ("reference/security.md", f"at most {limits.PAYLOAD_BYTES_MAX // limits.MB} MiB"),
    ("ARCHITECTURE.md", f"a heartbeat within {limits.NODE_GONE_S:g} s"),
    ("ARCHITECTURE.md", f"silent for {limits.NODE_SILENCE_S:g} s"),
    ("ARCHITECTURE.md", f"with {limits.SESSION_GONE_S:g} s and {limits.SESSION_SILENCE_S:g} s"),
    ("ARCHITECTURE.md", f"A\ntask over {limits.LONG_TASK_S * 1000:g} ms travels alone"),
    ("ARCHITECTURE.md", f"After {limits.OVERDUE_S:g} s"),
    ("PROMISES.md", f"not\nrenewed for {limits.ACK_WAIT_S:g} s"),
]


@pytest.mark.parametrize(("page", "words"), NUMBERS)
def test_numbers_in_the_text_are_those_of_the_code(page: str, words: str) -> None:
    assert " ".join(words.split()) in " ".join((DOCS / page).read_text(encoding="utf-8").split())


def test_every_word_of_the_vocabulary_is_in_order() -> None:
    words = [row[0].strip("*").lower() for row in rows((DOCS / "GLOSSARY.md").read_text(encoding="utf-8"))]
    assert words == sorted(words)


def test_how_signatures_are_shown() -> None:
    class Colour(enum.Enum):
        RED = 1

    def paint(self: object, fn: int, /, *args: int, colour: object = None) -> Colour: ...

    assert shown("paint", paint) == "paint(fn, /, *args, colour=None)"
    assert Path(PYTHON).exists()
