"""Name the project's repository wherever it is written: ``make set-url URL=https://github.com/...``

The URL stands in pyproject.toml and, because Colab and badges need it before anything is
installed, in the first cells of the notebooks and in a few documents. All are changed together.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("pyproject.toml", "README.md", "CITATION.cff", "CONTRIBUTING.md", "tests/colab/cell.ipy")
FORM = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?")


def set_url(url: str, root: Path = ROOT) -> list[Path]:
    """Put ``url`` in the place of the present one; returns the files that changed."""
    new = FORM.fullmatch(url)
    if new is None:
        sys.exit(f"Name the repository as https://github.com/OWNER/NAME, not {url!r}.")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    old = FORM.fullmatch(project["urls"]["Repository"])
    # "github.com/OWNER/NAME" in links, ".../github/OWNER/NAME/blob/..." in Colab badges
    pattern = re.compile(rf"(github(?:\.com)?/){re.escape(old[1])}(?![\w-])")
    changed = []
    for path in [*(root / name for name in FILES), *sorted(root.glob("notebooks/*.ipynb"))]:
        text = path.read_text("utf-8") if path.is_file() else ""
        if (fresh := pattern.sub(rf"\g<1>{new[1]}", text)) != text:
            path.write_text(fresh, "utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    for name in set_url(sys.argv[1] if len(sys.argv) == 2 else ""):
        print(f"changed {name.relative_to(ROOT)}")
