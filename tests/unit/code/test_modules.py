"""The user's own modules travel by content and are imported on the other side."""

import os
import sys
import textwrap
import zipfile
from io import BytesIO

import pytest

from farmhand.code import limits
from farmhand.code.bundle import BundleStore
from farmhand.code.hashing import content_hash
from farmhand.code.load import Loader
from farmhand.code.pack import Packer
from farmhand.errors import BadMessage, BundleTooLarge


@pytest.fixture
def shop(project):
    project.write("shop/__init__.py", "from .prices import total\n")
    project.write(
        "shop/prices.py",
        "from pathlib import Path\nfrom . import tax\nimport discount\n"
        "def total(n):\n    base = int((Path(__file__).parent / 'data' / 'base.txt').read_text())\n"
        "    return tax.with_tax(base * n) - discount.OFF\n"
        "class Basket:\n    def __init__(self, n):\n        self.n = n\n"
        "    def __eq__(self, other):\n        return type(other) is Basket and other.n == self.n\n"
        "    __hash__ = None\n    def total(self):\n        return total(self.n)\n"
        "def nested():\n    def inner():\n        from .tax import RATE\n        return RATE\n    return inner\n",
    )
    project.write("shop/tax.py", "RATE = 2\ndef with_tax(x):\n    return x * RATE\n")
    project.write("shop/data/base.txt", "50")
    project.write("shop/__pycache__/junk.py", "")
    project.write("shop/.git/config", "secret")
    project.write("shop/env/pyvenv.cfg", "")
    project.write("shop/env/lib.py", "")
    project.write("discount.py", "OFF = 1\n")
    project.write("unrelated.py", "1 / 0\n")
    return project.load("shop")


def test_a_package_with_relative_imports_data_and_a_sibling_module(slot, shop):
    assert slot.run(shop.total, 1) == 99
    assert slot.run(shop.prices.Basket(2).total) == 199
    assert slot.run(shop.prices.nested()) == 2
    code = slot.packer.code_for(shop.total)
    names = sorted(name for bundle in code.bundles for name in slot.packer.bundle(bundle).names)
    assert names == ["discount", "shop"]
    inner = {
        name for bundle in code.bundles for name in zipfile.ZipFile(BytesIO(slot.packer.bundle(bundle).blob)).namelist()
    }
    assert inner == {"discount.py", "shop/__init__.py", "shop/prices.py", "shop/tax.py", "shop/data/base.txt"}
    assert len(code.blob) < 100


def test_instances_of_the_users_classes_keep_their_class(slot, shop):
    basket = shop.prices.Basket(3)
    assert slot.run(lambda b: b.total(), basket) == 299
    back = slot.run(lambda b: type(b)(b.n + 1), basket)
    assert type(back) is shop.prices.Basket
    assert back == shop.prices.Basket(4)


def test_a_module_that_only_the_body_imports(slot, project):
    project.write("later.py", "import deeper\nvalue = deeper.value\n")
    project.write("deeper.py", "value = 'found'\n")

    def lazily():
        import later

        return later.value

    assert slot.run(lazily) == "found"
    assert "later" not in sys.modules
    before = slot.packer.code_for(lazily).bundles
    project.write("deeper.py", "value = 'found again'\n")
    assert Packer().code_for(lazily).bundles != before


def test_two_versions_after_each_other(slot, project):
    project.write("first.py", "import second\ndef f():\n    return second.value()\n")
    second = project.write("second.py", "def value():\n    return 'old'\n")
    module = project.load("first")
    old = slot.packer.code_for(module.f)
    assert slot.run_code(old) == "old"
    second.write_text("def value():\n    return 'newer'\n")
    # Nothing was loaded anew: the client's own calls still give "old".
    assert slot.packer.code_for(module.f) is old
    project.reload(sys.modules["second"])
    module = project.reload(module)
    new = slot.packer.code_for(module.f)
    assert new.bundles != old.bundles
    assert slot.run_code(new) == "newer"
    assert slot.run_code(old) == "old"
    assert slot.run_code(new) == "newer"


def test_a_cached_wrapper_in_a_module_brings_its_bundle(slot, project):
    project.write("cached.py", "import functools\n@functools.cache\ndef f(n):\n    return n + 1\n")
    assert slot.run(project.load("cached").f, 1) == 2


def test_a_namespace_package(slot, project):
    project.write("space/inner/deep.py", "from space.other import value\ndef f():\n    return value\n")
    project.write("space/other.py", "value = 8\n")
    assert slot.run(project.load("space.inner.deep").f) == 8


def test_a_script_beside_its_modules(run_client, tmp_path):
    (tmp_path / "beside.py").write_text("class Thing:\n    pass\ndef make():\n    return Thing()\n")
    script = textwrap.dedent(
        """
        import beside
        def through():
            return beside.make()
        assert type(slot.run(through)) is beside.Thing
        assert type(slot.run(lambda: through())) is beside.Thing
        print("fine")
        """
    )
    assert run_client(script) == "fine\n"


def test_a_module_without_a_file_goes_by_value(slot):
    import types

    module = types.ModuleType("made_up")
    exec("x = 4\ndef f():\n    return x\n", vars(module))
    sys.modules["made_up"] = module
    try:
        assert slot.run(module.f) == 4
        assert slot.run(lambda: module.f() + 1) == 5
    finally:
        del sys.modules["made_up"]


def test_installed_and_standard_modules_need_no_bundle():
    import json

    import msgspec
    import numpy as np

    packer = Packer()
    for fn in (json.dumps, msgspec.json.encode, np.mean, np.sqrt, os.getpid, Packer):
        assert packer.code_for(fn).bundles == ()


def test_bundles_are_deterministic_and_follow_the_files(project):
    path = project.write("plain.py", "a = 1\n")
    store = BundleStore()
    first = store.hashes_for({"plain"})
    assert first == store.hashes_for({"plain"}) == BundleStore().hashes_for({"plain"})
    os.utime(path, ns=(1, 1))
    assert store.hashes_for({"plain"}) == first
    path.write_text("a = 2\n")
    changed = store.hashes_for({"plain"})
    assert changed != first
    assert store.bundle(first[0]).names == store.bundle(changed[0]).names == ("plain",)
    with pytest.raises(KeyError):
        store.bundle("0" * 32)


def test_a_package_above_the_limit_is_refused_by_name(project, monkeypatch):
    monkeypatch.setattr("farmhand.code.bundle.BUNDLE_BYTES_MAX", 3 * limits.MB)
    project.write("heavy/__init__.py", "def f(): pass\n")
    for number in range(4):
        project.write(f"heavy/part{number}.txt", "x" * (limits.MB - 1))
    project.write("heavy/huge.bin", "x" * 9 * limits.MB)
    with pytest.raises(BundleTooLarge, match=r"heavy .*4\.0 MiB.*part"):
        Packer().code_for(project.load("heavy").f)


def test_a_link_back_to_a_folder_above_ends(project):
    project.write("looped/__init__.py", "")
    (project.folder / "looped" / "again").symlink_to(project.folder / "looped")
    assert len(BundleStore().hashes_for({"looped"})) == 1


def make_zip(*names):
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return packed.getvalue()


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "c:/evil.py", "a\\..\\e.py", "folder/"])
def test_a_bundle_cannot_write_outside_of_its_folder(tmp_path, name):
    blob = make_zip("fine.py", name)
    with pytest.raises(BadMessage, match="wants to write"):
        Loader(tmp_path).add_bundle(content_hash(blob), blob)
    assert list(tmp_path.rglob("*.py")) == []
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_bundle_must_be_what_its_name_says(tmp_path):
    loader = Loader(tmp_path)
    blob = make_zip("fine.py")
    with pytest.raises(BadMessage, match="content"):
        loader.add_bundle("0" * 32, blob)
    with pytest.raises(BadMessage, match="zip"):
        loader.add_bundle(content_hash(b"junk"), b"junk")
    loader.add_bundle(content_hash(blob), blob)
    loader.add_bundle(content_hash(blob), blob)
    assert loader.has_bundle(content_hash(blob))
    with pytest.raises(BadMessage, match="not in this node's cache"):
        loader.activate(("1" * 32,))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.bin", bytes(limits.BUNDLE_BYTES_MAX + 1))
    blob = packed.getvalue()
    with pytest.raises(BadMessage, match="larger"):
        Loader(tmp_path).add_bundle(content_hash(blob), blob)
