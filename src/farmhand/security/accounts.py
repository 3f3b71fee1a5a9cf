"""The users of a farm: a list in `users.json`, rendered to `users.conf`, which the engine's configuration includes.

The engine reads the list at its start and when it is asked to reload. There is one writer at a time: the supervisor
before the engine is up, then the steward. A name and a key belong to one user only, so an enrolled node cannot be
replaced by a stranger who knows its name.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

import msgspec

from farmhand import errors
from farmhand.engine.broker_config import quoted
from farmhand.security.nkeys import check_public
from farmhand.security.permissions import Permissions, Role, check_name, permissions
from farmhand.security.private_files import read_private, write_private

ACCOUNT: Final = "FARM"
SYSTEM_ACCOUNT: Final = "SYS"
JOIN_USER: Final = "join"  # the user name that goes with a join line's token
SERVER_USER: Final = "server"  # the same for a server line's
ANSWERS_MAX: Final = 16  # messages in answer to one request: room for an answer in parts
ANSWERS_S: Final = 120  # how long an answer may take; stopping a task with its grace takes 10 s
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled key. `publish` and `subscribe`, when given, stand in for what the role's table says."""

    role: Role
    name: str
    public_key: str
    publish: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] | None = None

    def check(self) -> None:
        """Raise `BadOption` or `CredentialMalformed`: what passes cannot break the engine's configuration."""
        check_name(self.name)
        check_public(self.public_key)
        if self.role in (Role.JOIN, Role.SERVER):
            raise errors.BadOption(f"the {self.role} user has a token, not a key")

    def permissions(self) -> Permissions:
        """What this user may do."""
        rights = permissions(self.role, self.name)
        publish = rights.publish if self.publish is None else self.publish
        subscribe = rights.subscribe if self.subscribe is None else self.subscribe
        return Permissions(publish, subscribe, rights.answers)


class Server(msgspec.Struct, frozen=True):
    """A server of a cluster. `address`: `host:port` for clients. `route`: the same for other servers."""

    name: str
    address: str
    route: str


class Register(msgspec.Struct, frozen=True):
    """The content of `users.json`. An empty token: nobody can join. `servers`: of a cluster."""

    users: tuple[User, ...] = ()
    join_token: str = ""
    server_token: str = ""
    servers: tuple[Server, ...] = ()

    def with_users(self, *users: User, replace: bool = False) -> Register:
        """The register with `users` in it. Raises: `NameTaken`, unless `replace`, which removes who stands in the way."""
        kept = list(self.users)
        for user in users:
            user.check()
            if user in kept:
                continue
            clashes = [u for u in kept if (u.role, u.name) == (user.role, user.name) or u.public_key == user.public_key]
            if clashes and not replace:
                raise errors.NameTaken(_clash(user, clashes[0]))
            kept = [u for u in kept if u not in clashes] + [user]
        return msgspec.structs.replace(self, users=tuple(kept))


class UserStore:
    """`users.json` and `users.conf` in `folder`, always written together. Nothing is cached between calls."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.json_path = folder / "users.json"
        self.conf_path = folder / "users.conf"
        self._durable = durable

    def load(self) -> Register:
        """Raises `CredentialUnsafe`, `CredentialMalformed`. A file that is not there is an empty register."""
        try:
            return msgspec.json.decode(read_private(self.json_path), type=Register)
        except errors.CredentialMissing:
            return Register()
        except msgspec.DecodeError as error:
            raise errors.CredentialMalformed(f"{self.json_path}: {error}") from None

    def list(self) -> tuple[User, ...]:
        """The users, in the order of their enrolment. Raises as `load`."""
        return self.load().users

    def add(self, *users: User, replace: bool = False) -> bool:
        """Enrol `users`. False when all of them were there already, so that no reload is needed.

        Raises: `NameTaken`, unless `replace`, which removes who stands in the way.
        """
        before = self.load()
        return self._change(before, before.with_users(*users, replace=replace))

    def put(self, register: Register) -> bool:
        """Take over the register of the whole cluster. False when it is the same."""
        return self._change(self.load(), register)

    def remove(self, role: Role, name: str) -> bool:
        """Take a user off the list. False when it was not on it."""
        before = self.load()
        kept = tuple(u for u in before.users if (u.role, u.name) != (role, name))
        return self._change(before, msgspec.structs.replace(before, users=kept))

    def set_join_token(self, token: str) -> bool:
        """The token that a joiner must show; an empty one closes the door. False when nothing changed."""
        if token and not is_token(token):
            raise errors.BadOption("a join token is 16 to 128 of A-Z, a-z, 0-9, '_' and '-'")
        before = self.load()
        return self._change(before, msgspec.structs.replace(before, join_token=token))

    def _change(self, before: Register, after: Register) -> bool:
        if before == after and self.conf_path.exists():
            return False
        conf = render(after).encode()  # may refuse, so it comes before anything is written
        # The list first: after a crash between the two, the next start renders the configuration from it.
        write_private(self.json_path, msgspec.json.format(msgspec.json.encode(after)) + b"\n", durable=self._durable)
        write_private(self.conf_path, conf, durable=self._durable)
        return before != after

    def write_conf(self) -> None:
        """Render `users.conf` again. To be called at each start: a newer version may have other permissions."""
        write_private(self.conf_path, render(self.load()).encode(), durable=self._durable)


def is_token(text: str) -> bool:
    """Whether it can be a join token: 16 to 128 of A-Z, a-z, 0-9, '_' and '-'."""
    return _TOKEN.fullmatch(text) is not None


def new_token() -> str:
    """A join token that nobody can guess: 192 bits."""
    return secrets.token_urlsafe(24)


def render(register: Register) -> str:
    """The accounts block of the engine's configuration. A pure function of the register.

    Raises `BadOption` for a register without anybody: from such a configuration the server concludes that no one needs
    to authenticate, and lets everybody in.
    """
    if not register.users and not register.join_token:
        raise errors.BadOption("a farm without any user would be open to everybody")
    farm = [_render_user(u) for u in register.users if u.role is not Role.SYSTEM]
    system = [_render_user(u) for u in register.users if u.role is Role.SYSTEM]
    for role, name, token in (
        (Role.JOIN, JOIN_USER, register.join_token),
        (Role.SERVER, SERVER_USER, register.server_token),
    ):
        if token:
            who = f"user: {quoted(name)}, password: {quoted(token)}"
            farm.append(f"      {{ {who}, {_render_permissions(permissions(role, name))} }}")
    lines = [
        "# Written by Farmhand from users.json; changes made here are lost.",
        f"system_account: {SYSTEM_ACCOUNT}",
        "accounts {",
        f"  {SYSTEM_ACCOUNT} {{ users: [",
        *system,
        "  ] }",
        f"  {ACCOUNT} {{ jetstream: enabled, users: [",
        *farm,
        "  ] }",
        "}",
        "",
    ]
    return "\n".join(lines)


def _render_user(user: User) -> str:
    rights = _render_permissions(user.permissions())
    return f"      {{ nkey: {user.public_key}{', ' + rights if rights else ''} }}  # {user.role} {user.name}"


def _render_permissions(rights: Permissions) -> str:
    if rights.publish is None or rights.subscribe is None:
        return ""
    parts = [
        f"publish: {{ allow: {_render_list(rights.publish)} }}",
        f"subscribe: {{ allow: {_render_list(rights.subscribe)} }}",
    ]
    if rights.answers:
        parts.append(f'allow_responses: {{ max: {ANSWERS_MAX}, expires: "{ANSWERS_S}s" }}')
    return f"permissions: {{ {', '.join(parts)} }}"


def _render_list(subjects: tuple[str, ...]) -> str:
    return f"[{', '.join(quoted(subject) for subject in subjects)}]"


def _clash(wanted: User, there: User) -> str:
    if wanted.public_key == there.public_key:
        return f"this key is enrolled already, as {there.role} {there.name}"
    return f"another key is enrolled as {there.role} {there.name}; choose another name, or remove that one first"
