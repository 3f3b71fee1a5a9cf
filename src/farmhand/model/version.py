"""The version of this Farmhand, in one place."""

from typing import Final

VERSION: Final = "0.1.0"
