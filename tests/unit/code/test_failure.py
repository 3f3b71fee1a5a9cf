"""Exceptions arrive as they were, or as words; never not at all."""

import pickle
from concurrent.futures.process import _RemoteTraceback

import pytest

from farmhand.code.failure import pack_exception, unpack_exception
from farmhand.errors import ArgumentsUndecodable, TaskFailed


class NeedsTwo(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} {b}")


class Locked(Exception):
    def __init__(self, text):
        super().__init__(text)
        import threading

        self.lock = threading.Lock()


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Exits(Exception):
    def __reduce__(self):
        return exit_now, ()


class Lies(Exception):
    def __reduce__(self):
        return int, (3,)


class NoReduce(Exception):
    def __reduce__(self):
        raise RuntimeError("will not")


def exit_now():
    raise SystemExit(3)


def fail_with_chain():
    try:
        {}["inner"]
    except KeyError as inner:
        error = ValueError("outer", 3)
        error.add_note("first note")
        raise error from inner


def fail_in_handler():
    try:
        {}["inner"]
    except KeyError:
        raise LookupError("second")  # noqa: B904


def test_an_exception_keeps_type_arguments_chain_notes_and_traceback(slot):
    with pytest.raises(ValueError, match="outer") as caught:
        slot.run(fail_with_chain)
    error = caught.value
    assert type(error) is ValueError
    assert error.args == ("outer", 3)
    assert error.__notes__[0] == "first note"
    assert "on a slot in a test" in error.__notes__[1]
    assert type(error.__cause__) is _RemoteTraceback
    for text in (error.__cause__.tb, error.__notes__[1]):
        assert "in fail_with_chain" in text
        assert "ValueError: ('outer', 3)" in text
        assert "KeyError: 'inner'" in text
        assert "load.py" not in text
    assert type(error.__cause__.__cause__) is KeyError
    assert error.__context__ is error.__cause__.__cause__


def test_a_context_without_a_cause(slot):
    with pytest.raises(LookupError) as caught:
        slot.run(fail_in_handler)
    assert type(caught.value.__context__) is KeyError
    assert caught.value.__cause__.__cause__ is None


@pytest.mark.parametrize(
    ("kind", "args", "words"),
    [
        (NeedsTwo, (1, 2), "NeedsTwo: 1 2 .*cannot be unpickled here: TypeError"),
        (Locked, ("held",), "Locked: held .*cannot be pickled: TypeError"),
        (Exits, ("out",), "Exits: out .*cannot be unpickled here: SystemExit: 3"),
        (Lies, ("lie",), "Lies: lie .*gives no exception but an object of type int"),
        (NoReduce, ("never",), "NoReduce: never .*cannot be pickled: RuntimeError: will not"),
    ],
)
def test_what_cannot_be_rebuilt_is_told_in_words(slot, kind, args, words):
    def fail():
        raise kind(*args)

    with pytest.raises(TaskFailed, match=words) as caught:
        slot.run(fail)
    assert "in fail" in caught.value.__cause__.tb


def test_an_exception_without_text(slot):
    def fail():
        raise NoText

    with pytest.raises(NoText) as caught:
        slot.run(fail)
    assert type(caught.value.__cause__) is _RemoteTraceback


def test_exits_and_groups(slot):
    def leave():
        raise SystemExit(4)

    with pytest.raises(SystemExit) as caught:
        slot.run(leave)
    assert caught.value.code == 4

    def several():
        raise ExceptionGroup("many", [ValueError(1), KeyError(2)])

    with pytest.raises(ExceptionGroup) as group:
        slot.run(several)
    assert [type(e) for e in group.value.exceptions] == [ValueError, KeyError]


def test_a_cause_that_cannot_be_rebuilt_does_not_take_the_rest_along(slot):
    def fail():
        raise ValueError("kept") from Locked("lost")

    with pytest.raises(ValueError, match="kept") as caught:
        slot.run(fail)
    assert type(caught.value.__cause__.__cause__) is TaskFailed


def test_arguments_that_break_when_unpickled(slot):
    class Breaks:
        def __reduce__(self):
            return int, ("not a number",)

    with pytest.raises(ArgumentsUndecodable, match=r"ValueError: .*not a number"):
        slot.run(print, Breaks())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        pickle.dumps(None),
        pickle.dumps(("note", "text", [])),
        pickle.dumps(("note", "text", [("T", "t", b"junk", "", 5, 5, False, [])])),
        pickle.dumps(("note", "text", [(1, 2)])),
        b"cbuiltins\neval\n(Vexit()\ntR.",
    ],
)
def test_hostile_bytes_give_an_exception_and_raise_none(data):
    assert isinstance(unpack_exception(data), TaskFailed)


def test_a_long_traceback_is_cut_at_its_beginning():
    rebuilt = unpack_exception(pack_exception(ValueError("x" * 300_000)))
    assert len(rebuilt.__cause__.tb) < 140_000
    assert rebuilt.__cause__.tb.endswith('x\n"""')


def test_bytes_stay_readable_without_running_code():
    note, _, links = pickle.loads(pack_exception(ValueError(1), "where"))
    assert (note, links[0][0]) == ("where", "ValueError")
