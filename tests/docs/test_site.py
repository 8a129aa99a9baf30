"""The site is refused when a link or an anchor of it leads nowhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import ROOT

# The script installs MkDocs into an environment of its own; here it takes the one that runs the test.
ENVIRONMENT = 'python="{python}"\nprepare() {{ cd "$(dirname "${{BASH_SOURCE[0]}}")/.."; }}\n'


@pytest.mark.parametrize(
    ("page", "text", "code"),
    [
        ("docs/index.md", "", 0),
        ("docs/index.md", "\n[limits](limits.md#no-such-heading)\n", 1),
        ("docs/index.md", "\n[nothing](no-such-page.md)\n", 1),
        ("docs/forgotten.md", "# A page that no navigation names\n", 1),
    ],
    ids=["as it is", "an anchor", "a page", "the navigation"],
)
def test_a_link_that_leads_nowhere_and_a_forgotten_page_end_the_build(
    page: str, text: str, code: int, tmp_path: Path
) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed: tools/docs.sh installs it")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "tools").mkdir()
    for name in ("mkdocs.yml", "tools/docs.sh", "tools/docs_reference.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "tools" / "environment.sh").write_text(ENVIRONMENT.format(python=sys.executable))
    with (tmp_path / page).open("a", encoding="utf-8") as stream:
        stream.write(text)
    done = subprocess.run(["bash", "tools/docs.sh"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    message = {"docs/forgotten.md": "forgotten.md"}.get(page, text.partition("(")[2].partition(")")[0])
    assert message in done.stderr
