"""Wheels for a machine with a GPU and no network: what fedlora needs, and that machine lacks, in one folder.

    python -m tests.gpu.wheels build/gpu-wheels --python 3.12 --there packages.txt

What is needed is read from this installation, in this installation's versions, down to the last package. `--there`
lists what the other machine has, one name a line; without it, torch, transformers and what comes with them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement

IMPORTED = """
flwr opacus dp-accounting pydantic sqlalchemy cryptography peft safetensors pyyaml typer rich prometheus-client psutil
pytest protobuf scipy pyarrow httpx
"""
"""What `make gpu` imports: no dashboard, no pictures."""
USUAL = """
torch transformers tokenizers huggingface-hub numpy scipy accelerate triton jinja2 markupsafe sympy mpmath networkx
fsspec filelock regex tqdm packaging typing-extensions setuptools pip requests urllib3 certifi idna charset-normalizer
safetensors pyarrow psutil jax jaxlib matplotlib pandas scikit-learn uv
"""
"""What an installation of torch and transformers brings with it; and no tool of Flower's that builds environments."""
NEEDED, THERE = tuple(IMPORTED.split()), frozenset(USUAL.split())
PLATFORMS = tuple(
    f"manylinux{version}_x86_64"
    for version in ("1", "2010", "2014", *(f"_2_{n}" for n in (5, 12, 17, 24, 27, 28, 31, 34)))
)
MOST_MIB = 40.0


def normal(name: str) -> str:
    """
    >>> normal("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def missing(needed: tuple[str, ...], there: frozenset[str], *, python: str) -> dict[str, str]:
    """Name and version of everything that is needed, what is there left out with all that it needs itself."""
    found: dict[str, str] = {}
    waiting = [normal(name) for name in needed]
    while waiting:
        name = waiting.pop()
        if name in found or name in there:
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # for another Python or system
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or marker.evaluate({"python_version": python, "extra": ""}):
                waiting.append(normal(requirement.name))
    return found


def download(packages: dict[str, str], folder: Path, *, python: str) -> None:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    for name, wanted in sorted(packages.items()):
        options = ["-q", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        what = [*options, *platforms, "-d", str(folder), f"{name}=={wanted}"]
        subprocess.run([sys.executable, "-m", "pip", "download", *what], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--there", type=Path)
    chosen = parser.parse_args()
    named = frozenset(map(normal, chosen.there.read_text().split())) if chosen.there else THERE
    packages = missing(NEEDED, named, python=chosen.python)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    download(packages, chosen.folder, python=chosen.python)
    mib = sum(path.stat().st_size for path in chosen.folder.glob("*.whl")) / 2**20
    print(f"{len(packages)} packages, {mib:.1f} MiB, in {chosen.folder}")
    if mib > MOST_MIB:
        sys.exit(f"that is more than {MOST_MIB:.0f} MiB; say with --there what the other machine has.")


if __name__ == "__main__":
    main()
