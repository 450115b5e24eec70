"""`python -m docs.site.build OUT`: these documents and the generated pages as a site that needs no network.

Zensical makes the site (docs/decisions/0012); a broken link ends the build.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docs.site.generated import PAGES

DOCS = Path(__file__).resolve().parents[1]


def build(out: Path) -> Path:
    """Write sources and site below `out`; returns the folder of the site. CalledProcessError where a link is broken."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(DOCS, out / "docs", ignore=shutil.ignore_patterns("site", "__pycache__"))
    shutil.copy(DOCS / "site" / "mkdocs.yml", out)
    for place, content in PAGES.items():
        page = out / "docs" / place
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(content(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=out, check=True)
    return out / "site"


if __name__ == "__main__":
    print(f"open {build(Path(sys.argv[1])) / 'index.html'}")
