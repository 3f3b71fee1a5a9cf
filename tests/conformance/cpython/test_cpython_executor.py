"""CPython's executor tests on a farm; see `suite`, `fixture` and `exclusions` beside this file."""

from __future__ import annotations

import sys

import pytest
from tests.conformance.cpython import suite, tally

if suite.available():
    from tests.conformance.cpython import fixture

    # pytest collects the classes from here; they run in this order, and the count comes after them.
    globals().update({cls.__name__: cls for cls in fixture.classes()})


def test_at_least_nine_tenths_of_the_shared_tests_pass(executor_tally: tally.Tally) -> None:
    if not suite.available():
        pytest.skip("this Python was installed without test.test_concurrent_futures; `make test` needs one that has it")
    if not executor_tally.complete:
        pytest.skip("only a part of CPython's executor tests was selected")
    print(executor_tally.summary)
    assert executor_tally.ratio >= tally.TARGET, executor_tally.summary


@pytest.mark.skipif(sys.version_info[:2] != (3, 13), reason="the list was made for Python 3.13")
@pytest.mark.skipif(not suite.available(), reason="this Python was installed without test.test_concurrent_futures")
def test_every_exclusion_names_a_test() -> None:
    assert tally.unknown_exclusions() == set()
