"""Runs a page's Python blocks one after another in one `__main__`, as a user would type them. A process of its own."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from typing import Any


def serve(namespace: dict[str, Any]) -> None:
    """Requests and answers are lines of JSON; what a block prints is kept and told with the answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests, sys.stdin = sys.stdin, io.StringIO()
    for line in requests:
        request = json.loads(line)
        problem = ""
        if request["code"] is not None:
            sys.stdout = printed = io.StringIO()
            try:
                exec(compile(request["code"], request["name"], "exec"), namespace)
            except BaseException:  # noqa: BLE001 (whatever a page raises is the test's finding)
                problem = traceback.format_exc()
        answers.write(json.dumps({"problem": problem, "printed": printed.getvalue()}) + "\n")
        answers.flush()
