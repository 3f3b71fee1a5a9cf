"""Layers of settings: which wins, how a slip is named, and what a project's file cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from farmhand import errors
from farmhand.cli.main import cli
from farmhand.home import saved, settings
from farmhand.home.settings import Source, chosen_farm, project_file, settle
from farmhand.model.settings import SETTINGS, Setting, checked, parsed

LAB = "nats://127.0.0.1:4999"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a project below a user's home, with no settings at all."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("FARMHAND_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    project = tmp_path / "work" / "a project"
    project.mkdir(parents=True)
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(project)
    return project


def user(text: str) -> Path:
    settings.user_file().write_text(text, encoding="utf-8")
    return settings.user_file()


def test_defaults() -> None:
    found = settle()
    assert {each.source for each in found.values()} == {Source.DEFAULT}
    assert (found["nodes"].value, found["listen"].value, found["grace"].value) == (1, "127.0.0.1", 10.0)


def test_each_layer_goes_before_the_one_below(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = user("# mine\nslots = 2\n")
    assert settle("up")["slots"] == (2, Source.USER, f"{path}:2")
    (place / "farmhand.toml").write_text("grace = 3\nslots = 4\n")
    assert settle("up")["slots"] == (4, Source.PROJECT, f"{place / 'farmhand.toml'}:2")
    monkeypatch.setenv("FARMHAND_SLOTS", "5")
    assert settle("up")["slots"] == (5, Source.VARIABLE, "$FARMHAND_SLOTS")
    assert settle("up", {"slots": 6})["slots"] == (6, Source.OPTION, "--slots")
    assert settle("up", {"slots": None, "capabilities": ()})["slots"].value == 5
    assert settle("up", {"grace": 0.0})["grace"].value == 0.0
    assert settle("up", {"nodes": 0})["nodes"].source is Source.OPTION
    assert settle("up", {"insecure_plaintext": False})["insecure_plaintext"].source is Source.DEFAULT
    assert settle("up")["grace"].value == 3.0


def test_the_farm_is_that_of_use_unless_something_names_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_farm() is None
    saved.change(save=("lab", LAB))
    saved.change(save=("barn", "tls://10.0.0.9:4222"))
    assert chosen_farm() is None
    saved.change(default="lab")
    assert chosen_farm() == LAB
    user('farm = "barn"')
    assert chosen_farm() == "tls://10.0.0.9:4222"
    (place / "farmhand.toml").write_text('farm = "lab"')
    assert chosen_farm() == LAB
    monkeypatch.setenv("FARMHAND_FARM", "nats://127.0.0.1:1")
    assert chosen_farm() == "nats://127.0.0.1:1"
    assert chosen_farm("barn") == "tls://10.0.0.9:4222"
    assert chosen_farm("ws://127.0.0.1:2") == "ws://127.0.0.1:2"


def test_empty_variables_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_SLOTS", "")
    monkeypatch.setenv("FARMHAND_FARM", " ")
    assert settle()["slots"].value is None
    assert chosen_farm() is None


def test_pyproject_has_a_table_for_it_and_the_nearest_file_counts(place: Path) -> None:
    above = place.parent / "pyproject.toml"
    above.write_text("[project]\nname = 'x'\n\n[tool.farmhand]\n\nslots = 3\n")
    assert settle("up")["slots"] == (3, Source.PROJECT, f"{above}:6")
    (place / "pyproject.toml").write_text("[project]\nname = 'farmhand-user'\n")
    assert project_file() == above  # the nearer one does not speak of us
    (place / "farmhand.toml").write_text("slots = 4\n")
    assert settle("up")["slots"].value == 4


@pytest.mark.parametrize("root", [".git", ".hg"])
def test_the_search_ends_at_a_repository(place: Path, root: str) -> None:
    (place.parent / "farmhand.toml").write_text("slots = 3\n")
    assert project_file() == place.parent / "farmhand.toml"
    (place / root).mkdir()
    assert project_file() is None
    (place / "farmhand.toml").write_text("slots = 4\n")
    assert project_file() == place / "farmhand.toml"


def test_the_search_ends_at_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.parent / "farmhand.toml").write_text("slots = 3\n")
    monkeypatch.setenv("HOME", str(place))
    assert project_file() is None


def test_a_pyproject_that_is_broken_elsewhere_is_not_ours_to_complain_about(place: Path) -> None:
    (place / "pyproject.toml").write_text("[project]\ndependencies = ['farmhand'\n")
    assert settle()["slots"].value is None
    (place / "pyproject.toml").write_text("[tool.farmhand]\nslots = \n")
    with pytest.raises(errors.BadOption, match=r"pyproject\.toml:2: "):
        settle()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nslotz = 3", r":2: there is no setting 'slotz'; did you mean 'slots'\?"),
        ("log-level = 'info'", r":1: there is no setting 'log-level'; did you mean 'log_level'\?"),
        ("qqqq = 1", ":1: there is no setting 'qqqq'; known are farm, slots, "),
        ("[up]\nslots = 3", ":1: there is no setting 'up'"),
        ("slots = 'x'", ':1: slots = "x": it must be a whole number'),
        ("slots = true", ":1: slots = true: it must be a whole number"),
        ("slots = 0", ":1: slots = 0: it must be a whole number, at least 1"),
        ("slots = 2.5", r":1: slots = 2\.5: it must be a whole number"),
        ("grace = -1", ":1: grace = -1.0: it must be a number, at least 0"),
        ("grace = inf", ":1: grace = inf"),
        ("port = 70000", ":1: port = 70000: it must be a whole number, from 1 to 65535"),
        ("durability = 'disk'", ':1: durability = "disk": it must be one of process, power'),
        ("log_level = 'loud'", ":1: log_level = .*debug, info, warning, error"),
        ("listen = ''", ":1: listen = .*not empty"),
        ("capabilities = 'latex'", ":1: capabilities = .*a list of texts"),
        ("capabilities = ['=x']", ":1: capabilities: '' is not a need"),
        ("insecure_plaintext = 1", ":1: insecure_plaintext = 1: it must be true or false"),
        ("slots = 1\nslots = 2", ":2: .*it must be TOML"),
        ("slots = [1,\n", ":2: .*it must be TOML"),
        ("slots = " + "[" * 100_000, ":1: .*it must be TOML"),
        ("slots = " + "9" * 5_000, ":1: "),
    ],
)
def test_a_slip_is_named_with_its_place_and_the_way_out(text: str, said: str) -> None:
    path = user(text)
    with pytest.raises(errors.BadOption, match=said) as caught:
        settle("doctor")  # also what this command does not use
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_utf_8() -> None:
    settings.user_file().write_bytes(b"slots = 1\n# caf\xe9\n")
    with pytest.raises(errors.BadOption, match=r":2: it is not UTF-8"):
        settle()


def test_a_slip_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARMHAND_SLOTS", "many")
    with pytest.raises(errors.BadOption, match=r'^\$FARMHAND_SLOTS: slots = "many": it must be a whole number$'):
        settle("up")
    settle("status")  # does not use it


@pytest.mark.parametrize(
    "line",
    [
        "listen = '0.0.0.0'",
        "port = 80",
        "websocket = 80",
        "insecure_plaintext = true",
        "insecure_plaintext = false",
        "nats_server = './evil'",
    ],
)
@pytest.mark.parametrize("name", ["farmhand.toml", "pyproject.toml"])
def test_a_project_cannot_open_this_machine_nor_choose_what_is_run(place: Path, line: str, name: str) -> None:
    head = "[tool.farmhand]\n" if name == "pyproject.toml" else "# ours\n"
    (place / name).write_text(head + line)
    with pytest.raises(errors.BadOption) as caught:
        settle("status")
    said = str(caught.value)
    assert said.startswith(f"{place / name}:2: {line.partition(' ')[0]} cannot be set by a project: ")
    assert "whoever wrote a project's file must not" in said
    assert str(settings.user_file()) in said
    user(line)
    (place / name).unlink()
    settle("status")


@pytest.mark.parametrize("farm", ["nats://10.0.0.1:4222", "tls://TOKENTOKENTOKEN1@h:1?pin=x", "evil.example"])
def test_a_project_can_only_name_a_farm_that_this_user_has_saved(place: Path, farm: str) -> None:
    (place / "farmhand.toml").write_text(f'farm = "{farm}"')
    with pytest.raises(errors.BadOption, match="gets your code") as caught:
        chosen_farm()
    assert "TOKEN" not in str(caught.value)


def test_no_file_holds_a_join_line() -> None:
    user('farm = "tls://TOKENTOKENTOKEN1@h:1?pin=x"')
    with pytest.raises(errors.BadOption, match="is a secret") as caught:
        chosen_farm()
    assert "TOKEN" not in str(caught.value)


def test_a_join_line_in_the_wrong_place_is_not_shown() -> None:
    user('slots = "tls://TOKENTOKENTOKEN1@h:1?pin=x"')
    with pytest.raises(errors.BadOption, match=r"slots = \.\.\.: it must be") as caught:
        settle()
    assert "TOKEN" not in str(caught.value)


def test_an_unknown_name_says_where_it_stands(place: Path) -> None:
    saved.change(save=("lab", LAB))
    (place / "farmhand.toml").write_text('farm = "lap"')
    with pytest.raises(errors.BadAddress, match=r"farmhand\.toml:1: no farm is saved as 'lap'; saved are lab\."):
        chosen_farm()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("insecure_plaintext", "yes", True),
        ("insecure_plaintext", "0", False),
        ("capabilities", "latex, gpu=2,", ("latex", "gpu=2")),
        ("grace", "3", 3.0),
        ("port", "4222", 4222),
    ],
)
def test_variables_are_texts(name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = next(each for each in SETTINGS if each.name == name)
    monkeypatch.setenv(setting.variable, text)
    assert settle()[name].value == value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_row_of_the_table_is_whole(setting: Setting) -> None:
    if setting.default is not None:
        assert checked(setting, setting.default) == setting.default
    with pytest.raises(errors.BadOption):
        checked(setting, object())
    with pytest.raises(errors.BadOption):
        parsed(setting, "" if setting.kind is str else "=")
    assert setting.help


@pytest.mark.parametrize("name", ["up", "join"])
def test_the_options_of_a_command_are_those_of_the_table(name: str) -> None:
    command = cli.get_command(cli.make_context("farmhand", [name], resilient_parsing=True), name)
    assert command is not None
    options = {parameter.name: parameter for parameter in command.params}
    for setting in SETTINGS:
        assert (setting.name in options) == (name in setting.used_by and bool(setting.option))
        if setting.name in options:
            option = options[setting.name]
            assert setting.option in option.opts
            assert getattr(option.type, "min", None) == setting.low
            assert getattr(option.type, "max", None) == setting.high
            assert tuple(getattr(option.type, "choices", ())) == setting.choices
