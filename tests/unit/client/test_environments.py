from __future__ import annotations

import sys
from pathlib import Path

import pytest

from farmhand import Environment, errors
from farmhand.client.environments import as_recipe
from farmhand.client.options import own_lane
from farmhand.model import limits
from farmhand.model.environment import Recipe

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def lines(env: object) -> tuple[str, ...]:
    recipe = as_recipe(env)
    assert recipe is not None
    return recipe.requirements


def test_what_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "needed.txt"
    path.write_text("numpy\n")
    assert as_recipe([]) is None
    assert as_recipe(Environment()) is None
    assert as_recipe("3.12") == Recipe(python="3.12", client=OWN)
    assert as_recipe(["numpy>=2", "pandas"]) == Recipe(requirements=("numpy>=2", "pandas"), client=OWN)
    assert lines(path) == lines(str(path)) == lines(("numpy",)) == lines(Environment(requirements=path)) == ("numpy",)
    both = as_recipe(Environment(requirements=["numpy"], python="3.12.4"))
    assert both is not None
    assert (both.minor, both.requirements) == ("3.12", ("numpy",))


@pytest.mark.parametrize(
    "line",
    ["numpy", "numpy>=2,<3", "a[b,c]==1", "a @ https://example.org/a.whl", "a ; python_version < '3.12'", "a~=1 --hash=sha256:0",
     "/srv/a-1.0-py3-none-any.whl", "git+https://example.org/a.git", "${HERE}/a", "-e /srv/a", "--no-index", "--find-links=/srv",
     "-f https://example.org/", "--no-binary :all:"],
)  # fmt: skip
def test_requirements_as_uv_takes_them(line: str) -> None:
    assert len(lines([line])) == 1


@pytest.mark.parametrize("line", ["", " ", "a b", ">=2", "a\nb", "--upgrade", "-x", "#numpy", 5, None])
def test_what_is_no_requirement(line: object) -> None:
    with pytest.raises(errors.BadOption, match="env"):
        as_recipe([line])


def test_a_file_with_all_that_files_have(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("-c limits.txt\n./wheels/b.whl # near\n-f wheels\n")
    (tmp_path / "more" / "limits.txt").write_text("numpy<3\n")
    path = tmp_path / "requirements.txt"
    path.write_text(
        "\ufeff# all\nnumpy==2.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n-rmore/base.txt\na @ https://x/a.zip#sha256=0\n"
    )
    recipe = as_recipe(path)
    assert recipe is not None
    near = tmp_path / "more" / "wheels"
    hashes = ["numpy==2.0", "--hash=sha256:1", "--hash=sha256:2"]
    assert [" ".join(line.split()) for line in recipe.requirements] == [
        " ".join(hashes), f"{near}/b.whl", f"-f {near}", "a @ https://x/a.zip#sha256=0",
    ]  # fmt: skip
    assert recipe.constraints == ("numpy<3",)


def test_what_is_wrong_in_a_file_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("numpy\n\n--upgrade\n")
    with pytest.raises(errors.BadOption, match=r"requirements\.txt:3: --upgrade"):
        as_recipe(path)
    path.write_text(f"-r {path}\n")
    with pytest.raises(errors.BadOption, match="includes itself"):
        as_recipe(path)
    with pytest.raises(errors.BadOption, match="uv export"):
        as_recipe(tmp_path / "pyproject.toml")
    with pytest.raises(errors.BadOption, match=r"env=\['numpy'\]"):
        as_recipe("numpy")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(errors.BadOption, match="cannot be read"):
        as_recipe(path)
    with pytest.raises(errors.BadOption, match="longer than"):
        as_recipe(["a" * limits.REQUIREMENTS_BYTES_MAX + "b"])


@pytest.mark.parametrize("python", ["3.10", "2.7", "3", "three", 3.12, "3.12 ", "3.12rc1"])
def test_pythons(python: object) -> None:
    if python == "3.12 ":
        assert as_recipe(Environment(python="3.12 ")) == Recipe(python="3.12", client=OWN)
        return
    with pytest.raises(errors.BadOption, match="env"):
        as_recipe(Environment(python=python))  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["3", "2.7", "3.12.", "4.0"])
def test_a_number_is_meant_for_a_version(version: str) -> None:
    with pytest.raises(errors.BadOption, match=r"a version such as|or newer"):
        as_recipe(version)


def test_who_can_take_it() -> None:
    assert own_lane(recipe=as_recipe(["numpy"])).python == OWN
    assert own_lane(recipe=as_recipe(OWN)).python == ""
    foreign = [recipe.foreign for recipe in map(as_recipe, (["numpy"], OWN, f"{OWN}.1", "3.99")) if recipe]
    assert foreign == [False, False, False, True]


def test_a_key_is_of_the_content_alone() -> None:
    one = Recipe(requirements=("a", "b"), client="3.11")
    assert one.key() == Recipe(requirements=("a", "b"), client="3.13").key()
    keys = {one.key(), one.key("x"), Recipe(requirements=("a", "b"), python="3.12").key(), Recipe(requirements=("ab",)).key(),
            Recipe(requirements=("a",), constraints=("b",)).key()}  # fmt: skip
    assert len(keys) == 5
