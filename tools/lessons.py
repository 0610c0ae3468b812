"""Write the executed notebooks as pages: ``python tools/lessons.py [NN ...]`` or ``make lessons``.

Runs the notebooks on phantoms (profile smoke) and writes ``docs/lessons/<notebook>.html``: small
PNG pictures, a progress bar as the one line that it ended with, no folded plumbing and no path of
the machine. Only the equations need a network (MathJax).
"""

import base64
import io
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, TagRemovePreprocessor
from PIL import Image
from pygments.formatters import HtmlFormatter

from medrobust_utils.reporting import planning, runner

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "lessons"
LARGEST = 1_500_000  # bytes of a page
WIDEST = 1000  # pixels of a picture
LARGE = 150_000  # bytes of a picture that 256 colours have to do for: a palette loses rare ones
STYLE = """  /* few rules: a template's whole stylesheet would stand in every page */
body { max-width: 60rem; margin: auto; padding: 0 1rem; font: 16px/1.5 sans-serif; }
mjx-container { max-width: 100%; overflow: auto hidden; }
.prompt, .anchor-link { display: none; }
pre { padding: 0.5rem; overflow-x: auto; white-space: pre-wrap; font-size: 13px; }
.input pre { background: #f5f5f5; white-space: pre; }
.output_area, .rendered_html { overflow-x: auto; overflow-wrap: break-word; }
img { max-width: 100%; }
table { border-collapse: collapse; border: 0; }
td, th { padding: 2px 8px; text-align: right; font-size: 13px; border: 0 solid #ddd; }
td, th { border-bottom-width: 1px; }
"""
EQUATIONS = "https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml.js"
UNFINISHED = re.compile(r"\b(?!100)\d+%\|")  # a progress bar
DOLLARS = "window.MathJax = {tex: {inlineMath: [['$', '$']]}}"


def page(book: nbformat.NotebookNode, paths: list[str]) -> str:
    """An executed notebook as HTML; each of ``paths`` is cut down to its last part.

    Raises:
        SystemExit: for a page above ``LARGEST`` bytes.
    """
    book.cells = [c for c in book.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    merging = CoalesceStreamsPreprocessor()
    for cell in merging.preprocess(book, {})[0].cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in map(_slim, cell.outputs) if one]
            bars = [one for one in cell.outputs if "100%|" in one.get("text", "")]
            cell.outputs = [one for one in cell.outputs if one not in bars[:-1]]
    exporter = HTMLExporter(template_name="basic")
    exporter.register_preprocessor(merging, enabled=True)  # what a bar stood between
    removing = TagRemovePreprocessor(remove_input_tags={"hide-input"}, enabled=True)
    exporter.register_preprocessor(removing, enabled=True)
    body, _ = exporter.from_notebook_node(book)
    style = STYLE + HtmlFormatter().get_style_defs(".highlight")
    head = f"<style>{style}</style><script>{DOLLARS}</script>"
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<meta charset="utf-8"><script async src="{EQUATIONS}"></script>'
    html = f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{body}</body></html>'
    for path in sorted(paths, key=len, reverse=True):
        html = html.replace(path, Path(path).name)
    # a wide table's headings may break where words are joined
    html = re.sub(r"(<th[^>]*>)([^<]*)", lambda m: m[1] + m[2].replace("_", "_<wbr>"), html)
    html = re.sub(r"(href=\"\d\d_\w+)\.ipynb\"", r'\1.html"', html)  # from page to page
    if len(html.encode()) > LARGEST:
        sys.exit(f"a page of {len(html.encode()):,} bytes, at most {LARGEST:,}: fewer pictures.")
    return html


def _slim(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output with small pictures and finished progress bars; None where nothing is left."""
    if output.output_type == "stream":
        lines = (line.rstrip().split("\r")[-1] for line in output.text.split("\n"))
        kept = [line for line in lines if line.strip() and not UNFINISHED.search(line)]
        bars = [line for line in kept if "100%|" in line]
        kept = [line for line in kept if line not in bars[:-1]]
        output.text = "\n".join(kept) + "\n"
        return output if kept else None
    if "image/png" in output.get("data", {}):
        with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as image:
            image.thumbnail((WIDEST, 10 * WIDEST))
            small, file = image.convert("RGB"), io.BytesIO()
        small.save(file, "PNG", optimize=True)
        if file.tell() > LARGE:
            file = io.BytesIO()
            small.quantize(256).save(file, "PNG", optimize=True)
        output.data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    return output


def main(wanted: list[str]) -> None:
    """Run the notebooks that are named (none: all) and write their pages."""
    PAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as out:
        runs = planning.plan(planning.find_notebooks(wanted), "smoke", [], Path(out))
        for outcome in runner.run_batch(runs):
            if outcome.status != "done":
                sys.exit(f"{outcome.run}: {outcome.error}")
            book = nbformat.read(outcome.run.folder / "executed.ipynb", as_version=4)
            paths = [str(outcome.run.folder), out, str(ROOT), str(Path.home()), sys.prefix]
            target = PAGES / f"{outcome.run.notebook.stem}.html"
            target.write_text(page(book, paths), "utf-8")
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
