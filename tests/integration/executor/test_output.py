"""What tasks print reaches the submitter's terminal."""

from __future__ import annotations

from collections import Counter

from tests.integration.executor.conftest import Script

PRINTING = """
import logging, os, subprocess, sys, threading
from farmhand import Farm

def everything():
    print("printed")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("two\\nlines\\n")
    sys.stdout.buffer.write("bytes \\u00fc\\n".encode())
    logging.getLogger("user.log").warning("logged %d", 7)
    os.write(1, b"by hand 1\\n")
    os.write(2, b"by hand 2\\n")
    subprocess.run([sys.executable, "-c", "print('child out'); import sys; print('child err', file=sys.stderr)"])
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start(); thread.join()
    print("Gr\\u00fc\\u00dfe \\U0001f69c \\u4e2d")
    print("partial", end="")

OPTIONS = {}
if __name__ == "__main__":
    with Farm(max_workers=1, **OPTIONS) as farm:
        farm.submit(everything).result(30)
"""
OUT = ["printed", "two", "lines", "bytes ü", "by hand 1", "child out", "from a thread", "Grüße 🚜 中", "partial"]
ERR = ["to stderr", "WARNING user.log: logged 7", "by hand 2", "child err"]


def label_and_text(line: str) -> tuple[str, str]:
    assert line.startswith("["), line
    label, _, text = line.partition("] ")
    return label + "]", text


def test_all_ways_to_print_are_labelled_and_keep_their_stream(script: Script) -> None:
    done = script.run(PRINTING)
    out = [label_and_text(line) for line in done.stdout.splitlines()]
    err = [label_and_text(line) for line in done.stderr.splitlines()]
    assert Counter(text for _, text in out) == Counter(OUT)
    assert Counter(text for _, text in err) == Counter(ERR)
    labels = {label for label, _ in out + err}
    assert len(labels) == 1
    assert "everything" in labels.pop()
    ordered = [text for _, text in out if text in ("printed", "two", "lines", "bytes ü", "from a thread", "partial")]
    assert ordered == ["printed", "two", "lines", "bytes ü", "from a thread", "partial"]


def test_without_labels(script: Script) -> None:
    done = script.run(PRINTING, FARMHAND_OUTPUT="plain")
    assert Counter(done.stdout.splitlines()) == Counter(OUT)
    assert Counter(done.stderr.splitlines()) == Counter(ERR)


def test_switched_off(script: Script) -> None:
    done = script.run(PRINTING.replace("OPTIONS = {}", "OPTIONS = {'output': False}"))
    assert done.stdout == ""
    assert done.stderr == ""


def test_the_name_option_is_the_label(script: Script) -> None:
    done = script.run(PRINTING.replace("farm.submit(", "farm.options(name='nightly').submit("))
    assert all(line.startswith("[nightly ") for line in done.stdout.splitlines())


def test_a_flood_is_cut_and_counted(script: Script) -> None:
    done = script.run(
        """
        import os
        from farmhand import Farm

        def flood():
            for i in range(20_000):
                print("line", i)

        def raw_flood():
            os.write(1, b"raw\\n" * 20_000)

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                farm.submit(flood).result(30)
                farm.submit(raw_flood).result(30)
        """
    )
    lines = [label_and_text(line)[1] for line in done.stdout.splitlines()]
    printed = [line for line in lines if line.startswith("line ")]
    raw = [line for line in lines if line == "raw"]
    assert printed[:3] == ["line 0", "line 1", "line 2"]
    assert 500 <= len(printed) < 20_000
    assert len(raw) < 20_000
    left_out = [label_and_text(line)[1].split() for line in done.stderr.splitlines()]
    assert all(words[2:] == ["more", "lines", "were", "left", "out"] for words in left_out), left_out
    assert sum(int(words[1]) for words in left_out) == 40_000 - len(printed) - len(raw)


def test_long_lines_and_lines_in_pieces(script: Script) -> None:
    done = script.run(
        """
        import sys
        from farmhand import Farm

        def pieces():
            for i in range(5):
                sys.stdout.write("piece")
                sys.stdout.flush()
            print()
            print("x" * 30_000)

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                farm.submit(pieces).result(30)
                print("after")
        """
    )
    lines = done.stdout.splitlines()
    assert label_and_text(lines[0])[1] == "piece" * 5
    assert lines[-1] == "after"
    assert all(set(label_and_text(line)[1]) <= {"x"} for line in lines[1:-1])
    assert len(lines) >= 3


def test_logging_set_up_by_the_task_works_as_usual(script: Script) -> None:
    done = script.run(
        """
        import logging
        from farmhand import Farm

        def talk():
            logging.basicConfig(level=logging.INFO, format="<%(levelname)s> %(message)s")
            logging.info("hello")

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                farm.submit(talk).result(30)
                farm.submit(talk).result(30)
        """
    )
    assert [label_and_text(line)[1] for line in done.stderr.splitlines()] == ["<INFO> hello"] * 2


def test_a_submitter_without_a_terminal(script: Script) -> None:
    done = script.run(
        """
        import os, sys
        from farmhand import Farm

        if __name__ == "__main__":
            with Farm(max_workers=1) as farm:
                real = sys.stdout
                sys.stdout = sys.stderr = None
                farm.submit(print, "into the void").result(30)
                sys.stdout, sys.stderr = real, sys.__stderr__
                assert farm.submit(abs, -3).result(30) == 3
            print("good")
        """
    )
    assert done.stdout.splitlines()[-1] == "good"
