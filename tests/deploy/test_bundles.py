"""Configuration is welcome, code is not: whatever it is called, wherever it hides."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest

from client.flower.bundles import MOST_FILES, BundleError, Kind, admit


def bundle(**files: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def test_configuration_is_accepted():
    content = bundle(**{"pyproject.toml": "", "recipe.yaml": "", ".info/CONTENT": "", "LICENSE": ""})
    assert admit(content, allowed=()) is Kind.CONFIGURATION


@pytest.mark.parametrize(
    "name",
    [
        "client/deployed.py",
        "app.PY",
        "sitecustomize.pyc",
        "x.so",
        "x.pth",
        "client.pyi",
        "run",
        "a.toml.py",
        ".py",
        "x.yaml ",
    ],
)
def test_anything_else_is_refused_and_told_by_its_hash(name):
    content = bundle(**{"pyproject.toml": "", name: "import os"})
    with pytest.raises(BundleError, match=hashlib.sha256(content).hexdigest()) as refused:
        admit(content, allowed=())
    assert refused.value.code == "bundle-not-allowed"


@pytest.mark.parametrize("name", ["../pyproject.toml", "/etc/x.toml", "a/../../b.yaml", "..\\x.toml"])
def test_a_path_that_leaves_the_bundle_is_refused(name):
    with pytest.raises(BundleError) as refused:
        admit(bundle(**{name: ""}), allowed=())
    assert refused.value.code == "bundle-malformed"


def test_an_allowed_hash_is_that_of_the_whole_content():
    content = bundle(**{"app.py": "1"})
    assert admit(content, allowed={hashlib.sha256(content).hexdigest()}) is Kind.ALLOWED_CODE
    with pytest.raises(BundleError):
        admit(bundle(**{"app.py": "2"}), allowed={hashlib.sha256(content).hexdigest()})


def test_what_is_no_zip_or_too_much_is_refused():
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.yaml", b"\0" * 8_000_000)
    many = bundle(**{f"{number}.yaml": "" for number in range(MOST_FILES + 1)})
    for content in (b"", b"not a zip", bomb.getvalue(), many):
        with pytest.raises(BundleError) as refused:
            admit(content, allowed=())
        assert refused.value.code == "bundle-malformed"
