"""The user's own modules travel by content, are cached on the node, and follow what the user does to them."""

from __future__ import annotations

import time

from tests.integration.executor.conftest import Script
from tests.integration.executor.meeting import PATIENCE_S

from farmhand import Farm


def test_a_module_and_a_package_beside_the_program(script: Script) -> None:
    script.file("shapes.py", "from geometry.base import area\ndef square(a):\n    return area(a, a)\n")
    script.file("geometry/__init__.py", "from . import base\n")
    script.file("geometry/base.py", "from geometry.data import UNIT\ndef area(a, b):\n    return a * b * UNIT\n")
    script.file(
        "geometry/data/__init__.py",
        "from pathlib import Path\nUNIT = int((Path(__file__).parent / 'unit.txt').read_text())\n",
    )
    script.file("geometry/data/unit.txt", "2")
    done = script.run(
        """
        import os, tempfile
        import shapes
        from geometry import base
        from farmhand import Farm

        def where(_):
            import shapes
            return os.getcwd(), shapes.__file__

        if __name__ == "__main__":
            with Farm(max_workers=2) as farm:
                os.chdir(tempfile.gettempdir())
                assert farm.submit(shapes.square, 3).result() == 18
                assert list(farm.map(base.area, [1, 2], [3, 4])) == [6, 16]
                cwd, file = farm.submit(where, 0).result()
                assert file != shapes.__file__, file
            print("good")
        """
    )
    assert done.stdout == "good\n"


def test_modules_changed_and_reloaded(script: Script) -> None:
    script.file("rules.py", "def rate():\n    return 1\n")
    script.file("lazy_rules.py", "def rate():\n    return 'lazy'\n")
    done = script.run(
        """
        import importlib, pathlib, sys
        import rules
        from farmhand import Farm

        sys.dont_write_bytecode = True

        def indirect():
            return rules.rate()

        def imports_inside():
            import lazy_rules
            return lazy_rules.rate()

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                assert farm.submit(rules.rate).result() == 1
                pathlib.Path(rules.__file__).write_text("def rate():\\n    return 22\\n")
                assert farm.submit(rules.rate).result() == 1, "what is loaded is what runs"
                importlib.reload(rules)
                assert rules.rate() == 22
                assert farm.submit(rules.rate).result() == 22
                assert farm.submit(indirect).result() == 22
                assert farm.submit(imports_inside).result() == "lazy"
            print("good")
        """
    )
    assert done.stdout == "good\n"


def test_exceptions_and_classes_of_a_module_are_the_callers_own(script: Script) -> None:
    script.file(
        "bank.py",
        """
        class Overdrawn(ValueError):
            def __init__(self, by, *, account="main"):
                super().__init__(by, account)
                self.by, self.account = by, account
            def __reduce__(self):
                return _again, (self.by, self.account)

        def _again(by, account):
            return Overdrawn(by, account=account)

        class Account:
            def __init__(self, balance):
                self.balance = balance
            def draw(self, amount):
                if amount > self.balance:
                    raise Overdrawn(amount - self.balance, account="joint")
                self.balance -= amount
                return self
        """,
    )
    done = script.run(
        """
        import bank
        from farmhand import Farm

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                account = farm.submit(bank.Account(10).draw, 3).result()
                assert type(account) is bank.Account and account.balance == 7
                try:
                    farm.submit(account.draw, 100).result()
                except bank.Overdrawn as error:
                    assert (error.by, error.account) == (93, "joint")
                    assert "bank.py" in "".join(error.__notes__)
            print("good")
        """
    )
    assert done.stdout == "good\n"


def test_a_module_that_does_not_compile_or_fails_to_import(script: Script) -> None:
    refuses = "if 'FARMHAND_SLOT' in os.environ:\n    raise ImportError('not on a node')\n"
    script.file("fragile.py", f"import os\n{refuses}def f():\n    return 1\n")
    done = script.run(
        """
        import fragile
        from farmhand import Farm, errors

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                error = farm.submit(fragile.f).exception(30)
                assert isinstance(error, errors.TaskRefused), repr(error)
                assert "not on a node" in str(error), error
                assert farm.submit(len, "ab").result(30) == 2
            print("good")
        """
    )
    assert done.stdout == "good\n"


def test_code_travels_once_per_node() -> None:
    payload = "x" * 300_000

    def double(x: int) -> int:
        return 2 * x

    def big(x: int) -> int:
        return x * (len(payload) // 300_000)

    with Farm(max_workers=2, nodes=2, output=False) as farm:
        assert fetches_after(farm, 0) == 0
        assert list(farm.map(double, range(500), timeout=PATIENCE_S)) == [2 * x for x in range(500)]
        assert [f.result(PATIENCE_S) for f in [farm.submit(double, i) for i in range(500)]] == [
            2 * i for i in range(500)
        ]
        once = fetches_after(farm, 1000)
        assert 1 <= once <= 2, "at most once to each of the two nodes"
        assert [f.result(PATIENCE_S) for f in [farm.submit(big, i) for i in range(200)]] == list(range(200))
        assert 1 <= fetches_after(farm, 1200) - once <= 2


def fetches_after(farm: Farm, runs: int) -> int:
    """Blobs of code that nodes fetched from the engine, once their heartbeats tell of so many runs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        nodes = farm.status()["nodes"]
        if len(nodes) == 2 and sum(node["runs"] for node in nodes) >= runs:
            return sum(node["code_fetches"] for node in nodes)
    raise AssertionError("the nodes do not tell of their runs")


def test_files_of_the_working_folder_do_not_stand_in_for_the_standard_library(script: Script) -> None:
    script.file("elsewhere/queue.py", "raise RuntimeError('the wrong queue')\n")
    done = script.run(
        """
        import os
        from farmhand import Farm

        if __name__ == "__main__":
            os.chdir("elsewhere")
            with Farm(max_workers=1) as farm:
                print(farm.submit(abs, -3).result(30))
        """
    )
    assert done.stdout.split() == ["3"]
