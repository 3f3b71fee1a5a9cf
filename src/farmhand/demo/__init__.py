"""What `farmhand demo` shows: real work on a small farm, and a proof that the farm's answer is right."""

from __future__ import annotations

from farmhand.demo.show import DemoReport, NodeActivity, run

__all__ = ["DemoReport", "NodeActivity", "run"]
