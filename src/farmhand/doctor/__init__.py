"""`farmhand doctor`: looks at each part of a farm, lowest first, and says which one fails and what to do.

A check whose foundation has failed is skipped, so that what is reported as failed is the part to mend.
"""

from __future__ import annotations

from farmhand.doctor.checks import Check, State, Step, examine
from farmhand.doctor.steps import all_steps

__all__ = ["Check", "State", "Step", "all_steps", "examine"]
