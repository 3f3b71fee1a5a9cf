"""The list of users and what the engine's configuration makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from farmhand import errors
from farmhand.security.accounts import Register, User, UserStore, new_token, render
from farmhand.security.nkeys import KeyPair
from farmhand.security.permissions import Role, inbox_prefix, permissions


def user(role: Role = Role.NODE, name: str = "n1") -> User:
    return User(role=role, name=name, public_key=KeyPair.generate().public)


@pytest.fixture
def store(tmp_path: Path) -> UserStore:
    return UserStore(tmp_path, durable=False)


def test_what_was_added_is_listed_by_another_process(store: UserStore, tmp_path: Path) -> None:
    one, two = user(), user(Role.CLIENT, "ann")
    assert store.add(one, two)
    assert UserStore(tmp_path).list() == (one, two)
    assert one.public_key in store.conf_path.read_text()


def test_both_files_are_private(store: UserStore) -> None:
    store.add(user())
    assert store.json_path.stat().st_mode & 0o777 == 0o600
    assert store.conf_path.stat().st_mode & 0o777 == 0o600


def test_adding_again_changes_nothing(store: UserStore) -> None:
    one = user()
    store.add(one)
    assert not store.add(one)


def test_a_name_cannot_be_taken_over(store: UserStore) -> None:
    one = user()
    store.add(one)
    with pytest.raises(errors.NameTaken, match="node n1"):
        store.add(user())
    assert store.list() == (one,)
    other = user()
    assert store.add(other, replace=True)
    assert store.list() == (other,)


def test_a_key_has_one_name(store: UserStore) -> None:
    one = user()
    store.add(one)
    with pytest.raises(errors.NameTaken):
        store.add(User(role=Role.NODE, name="n2", public_key=one.public_key))


def test_a_client_may_have_the_name_of_a_node(store: UserStore) -> None:
    assert store.add(user(), user(Role.CLIENT, "n1"))


def test_all_or_nothing(store: UserStore) -> None:
    store.add(user())
    with pytest.raises(errors.NameTaken):
        store.add(user(name="n2"), user(name="n1"))
    assert [u.name for u in store.list()] == ["n1"]


def test_removing(store: UserStore) -> None:
    one, two = user(), user(name="n2")
    store.add(one, two)
    assert store.remove(Role.NODE, "n1")
    assert not store.remove(Role.NODE, "n1")
    assert store.list() == (two,)
    assert one.public_key not in store.conf_path.read_text()


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", ">", 'a"', "a\nb", "x" * 65, "é", "{name}"])
def test_a_name_that_is_no_subject_token_is_refused(store: UserStore, name: str) -> None:
    with pytest.raises(errors.BadOption):
        store.add(user(name=name))
    assert not store.json_path.exists()


@pytest.mark.parametrize("key", ["", "UABC", "U" * 56, "} include /etc/passwd {"])
def test_a_key_that_would_break_the_configuration_is_refused(store: UserStore, key: str) -> None:
    with pytest.raises(errors.CredentialMalformed):
        store.add(User(role=Role.NODE, name="n1", public_key=key))


def test_the_join_token(store: UserStore) -> None:
    store.add(user())
    token = new_token()
    assert store.set_join_token(token)
    assert not store.set_join_token(token)
    assert f'user: "join", password: "{token}"' in store.conf_path.read_text()
    assert store.set_join_token("")
    assert token not in store.conf_path.read_text()


@pytest.mark.parametrize("token", ["short", 'abcdefghijklmnop"', "a" * 129, "abcdefgh ijklmnop"])
def test_a_token_that_cannot_be_in_a_line_is_refused(store: UserStore, token: str) -> None:
    with pytest.raises(errors.BadOption):
        store.set_join_token(token)


def test_nobody_at_all_would_mean_everybody(store: UserStore) -> None:
    with pytest.raises(errors.BadOption, match="open to everybody"):
        render(Register())
    store.add(user())
    with pytest.raises(errors.BadOption, match="open to everybody"):
        store.remove(Role.NODE, "n1")
    assert [u.name for u in store.list()] == ["n1"], "a refused change leaves the list as it was"


def test_own_rights_stand_in_for_those_of_the_role() -> None:
    special = User(role=Role.CLIENT, name="ann", public_key=KeyPair.generate().public, publish=("api.status",))
    assert special.permissions().publish == ("api.status",)
    assert special.permissions().subscribe == permissions(Role.CLIENT, "ann").subscribe


def test_a_damaged_list_is_named(store: UserStore) -> None:
    store.add(user())
    store.json_path.write_bytes(b"{")
    with pytest.raises(errors.CredentialMalformed, match=r"users\.json"):
        store.list()


def test_the_configuration_can_be_rendered_again_from_the_list(store: UserStore) -> None:
    store.add(user())
    before = store.conf_path.read_text()
    store.conf_path.unlink()
    store.write_conf()
    assert store.conf_path.read_text() == before


@pytest.mark.parametrize("role", [Role.CLIENT, Role.NODE, Role.JOIN])
def test_each_listens_to_its_own_inbox_only(role: Role) -> None:
    subscribe = permissions(role, "one").subscribe
    assert subscribe is not None
    assert [s for s in subscribe if s.startswith("_INBOX")] == [f"{inbox_prefix(role, 'one')}.>"]
    assert inbox_prefix(role, "one") != inbox_prefix(Role.STEWARD, "one")
    assert ">" not in subscribe


def test_a_node_speaks_for_itself_only() -> None:
    publish = permissions(Role.NODE, "n1").publish
    assert publish is not None
    assert "res.*.n1" in publish
    assert not [s for s in publish if "{" in s or s in {">", "res.>", "ses.>", "work.>"}]
    assert not [s for s in publish if s.startswith("_INBOX")]
