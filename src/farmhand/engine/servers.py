"""The servers of a farm as one connection knows them: where to try next, and when one of them has come or gone.

A farm of one server has one address, and everything here is about that one. The servers of a cluster name each other in the
first line that each of them sends, and say so again at once when one joins or dies. So whoever knew one of them finds the
others, and learns of a death without asking.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Final

from farmhand import errors
from farmhand.model.address import Address, parse_address

REMEMBERED_MAX: Final = 9  # three servers, and those that were replaced; the oldest are forgotten

_dice = secrets.SystemRandom()


class Servers:
    """See the head of this file. `now` is the address that is used, or tried."""

    def __init__(self, first: Address, others: Iterable[Address] = ()) -> None:
        self.now = first
        self._given = first
        self.known: tuple[Address, ...] = tuple(dict.fromkeys((first, *others)))
        self.living: frozenset[str] = frozenset()  # `host:port` of each, as the one that we are connected to says

    @property
    def many(self) -> bool:
        """Whether there is more than one."""
        return len(self.known) > 1 or len(self.living) > 1

    def learn(self, info: dict[str, object], *, follow: bool) -> bool:
        """A server's own words. True when others than before are there. `follow`: remember them as places to go to."""
        urls = info.get("connect_urls")
        heard = {str(url): found for url in urls if (found := self._at(str(url)))} if isinstance(urls, list) else {}
        before, self.living = self.living, frozenset(heard)
        if follow and heard:
            self.known = tuple(dict.fromkeys((self._given, *heard.values(), *self.known)))[:REMEMBERED_MAX]
        return bool(before) and before != self.living

    def _at(self, place: str) -> Address | None:
        try:
            return parse_address(f"{self._given.scheme}://{place}")
        except errors.BadAddress:
            return None

    def tries(self) -> list[Address]:
        """Where to try now, in this order: those that were there a moment ago first, the one that we were at last.

        By chance among equals, so that the clients of a dead server spread over the others.
        """
        others = [address for address in self.known if address != self.now]
        _dice.shuffle(others)
        others.sort(key=lambda address: f"{address.host}:{address.port}" not in self.living)
        return [*others, self.now]
