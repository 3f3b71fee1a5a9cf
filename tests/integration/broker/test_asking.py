"""A question that went to a steward which died with it is asked once more, and not over and over."""

from __future__ import annotations

import pytest
from tests.integration.broker.conftest import login

from farmhand import errors
from farmhand.engine import asking, subjects
from farmhand.engine.broker import Broker
from farmhand.engine.connection import Connection
from farmhand.engine.wire import Msg
from farmhand.home.process import run_loop
from farmhand.model import messages
from farmhand.model.messages import Answer
from farmhand.security.permissions import Role


@pytest.mark.parametrize("answered", [True, False])
def test_a_question_that_nobody_lives_to_answer(broker: Broker, answered: bool) -> None:
    heard: list[Msg] = []

    async def converse() -> None:
        steward, client = [await Connection.open(login(broker, role)) for role in (Role.STEWARD, Role.CLIENT)]

        def listen(msg: Msg) -> None:
            heard.append(msg)
            if answered and len(heard) == 2:
                steward.publish(msg.reply, messages.encode(Answer(result="here")))

        steward.subscribe(subjects.api("status"), listen)
        await steward.flush()
        try:
            if answered:
                assert await asking.ask_steward(client, "status") == "here"
            else:
                with pytest.raises(errors.EngineUnreachable, match="did not answer within 2"):
                    await asking.ask_steward(client, "status", timeout=2.0)
        finally:
            for connection in (client, steward):
                await connection.close()

    run_loop(converse())
    assert len(heard) == 2
