"""`farmhand logs`: what tasks have printed, also long after they, their node and their client are gone."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from farmhand.cli.contact import Contact
from farmhand.cli.main import farm_option, json_option

if TYPE_CHECKING:
    from farmhand.client.printed import Printed

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_STREAMS: Final = {1: "stdout", 2: "stderr"}


def _check_since(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    """An RFC 3339 time for `10m`, or for a time as ISO 8601 has it, which is local time unless it says otherwise."""
    if value is None:
        return ""
    if ago := _AGO.fullmatch(value.strip()):
        seconds = dt.timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
        at = dt.datetime.now(dt.UTC) - seconds
    else:
        try:
            at = dt.datetime.fromisoformat(value.strip()).astimezone(dt.UTC)
        except ValueError:
            raise click.BadParameter(f"{value!r}: write 90s, 10m, 2h, 3d, or a time like 2027-01-31T14:05") from None
    return at.isoformat().replace("+00:00", "Z")


@click.command("logs")
@click.argument("who", metavar="[TASK|SESSION]", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on, until Ctrl-C.")
@click.option("-n", "--lines", metavar="N", type=click.IntRange(min=0), help="Only the last N lines of what is there.")
@click.option(
    "--since", metavar="TIME", callback=_check_since, help="Only what is not older: 90s, 10m, 2h, 3d, or a time."
)
@click.option("--plain", is_flag=True, help="Only what was printed, without time and label.")
@farm_option
@json_option
def command(
    who: str, follow: bool, lines: int | None, since: str, plain: bool, farm: str | None, as_json: bool
) -> None:
    """Show what tasks printed, for 7 days, also when their node and their client are gone.

    A TASK is SESSION/NUMBER, as labels, errors and `future.task_id` have it, SESSION/NAME, or a task's NAME in any session.
    A SESSION is its id or the beginning of it; without anything it is all of them.
    """
    from farmhand.home.process import new_loop

    show = _Show(as_json=as_json, plain=plain)
    ended_by = [KeyboardInterrupt] if follow else []  # that is how one stops following
    with contextlib.suppress(*ended_by), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_logs(farm, who, since, lines, show, follow=follow))


async def _logs(farm: str | None, who: str, since: str, lines: int | None, show: _Show, *, follow: bool) -> None:
    from farmhand.client import printed

    async with Contact(farm) as contact:
        asked = await printed.understand(contact.connection, who)
        show.whole = not asked.session
        kept = None if lines is None else collections.deque[str](maxlen=lines)
        any_found = False
        async for found in printed.read(contact.connection, asked, since, follow=follow):
            if found is not None:
                any_found = True
                for line in show.lines(found):
                    (click.echo if kept is None else kept.append)(line)
                continue
            for line in kept or ():
                click.echo(line)
            kept = None
            if not any_found and not follow:
                click.echo(f"Nothing that {who or 'any task'} printed is kept.", err=True)


class _Show:
    """Makes lines for the terminal of what was printed, or documents for programs."""

    def __init__(self, *, as_json: bool, plain: bool) -> None:
        from farmhand.client.output import plain_wanted

        self.whole = True  # name the session too, because lines of several may come
        self._as_json = as_json
        self._plain = plain or plain_wanted()

    def lines(self, found: Printed) -> Iterator[str]:
        """One for each line that was printed, and one for those that were left out."""
        from farmhand.client.output import left_out

        for number, text in found.output.lines:
            yield self._line(found, number, text, 0)
        if found.output.dropped:
            yield self._line(found, 2, left_out(found.output), found.output.dropped)

    def _line(self, found: Printed, number: int, text: str, dropped: int) -> str:
        from farmhand.client.output import label_of

        if self._as_json:
            return json.dumps(_document(found, number, text, dropped), ensure_ascii=False)
        if self._plain:
            return text
        at = dt.datetime.fromtimestamp(found.at, dt.UTC).astimezone()
        prefix = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} "
        prefix += label_of(found.output, found.session if self.whole else "")
        return click.style(prefix, dim=True) + (click.style(text, fg="red") if number == 2 else text)


def _document(found: Printed, number: int, text: str, dropped: int) -> dict[str, Any]:
    output = found.output
    return {
        "time": round(found.at, 6),
        "session": found.session,
        "number": output.number,
        "name": output.name,
        "node": output.node,
        "slot": output.slot,
        "stream": _STREAMS.get(number, str(number)),
        "text": text,
        "dropped": dropped,
    }
