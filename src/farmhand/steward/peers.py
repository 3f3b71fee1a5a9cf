"""Parts of other versions, as the steward meets them: which protocol they speak, and that it says so once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Final, TypeVar

from farmhand import errors
from farmhand.engine.wire import Msg
from farmhand.model import messages
from farmhand.model.messages import Codec
from farmhand.model.peers import check_peer

log = logging.getLogger("farmhand.steward")

T = TypeVar("T")
TOLD_MAX: Final = 1000  # of whom the log has told


class Peers:
    """Reads what may come from another version. A beat that cannot be used is logged once for its sender."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, None] = OrderedDict()

    @staticmethod
    def check(data: bytes | memoryview, peer: str) -> None:
        """Raise `VersionMismatch` for a request of another protocol, `BadMessage` for what is none."""
        hello = messages.read_preamble(data)
        check_peer(peer, hello.version, hello.protocol, "the farm")

    def read(self, msg: Msg, codec: Codec[T]) -> T | None:
        """A beat; None for one of another protocol: its sender counts as not there."""
        try:
            self.check(msg.data, msg.subject.rpartition(".")[0])
            return codec(msg.data)
        except (errors.VersionMismatch, errors.BadMessage) as error:
            if msg.subject not in self._told:
                self._told[msg.subject] = None
                while len(self._told) > TOLD_MAX:
                    self._told.popitem(last=False)
                log.warning("%s is left out: %s", msg.subject, error)
            return None
