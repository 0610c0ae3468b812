"""Serves the explorer's notebook as a page of its own, through Voila, to this machine alone."""

import json
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from ..core.errors import ProtocolError, RunError
from ..reporting import planning, protocol, results
from ..reporting.runner import KERNEL_START_SECONDS, own_kernel

NAME = "05_gradcam_explorer"
TITLE = "What does the network look at?"
HERE = "127.0.0.1"  # patients' images are nobody else's business
KEPT = {"parameters", "injected-parameters", "app"}  # tags of the cells that are served
CONTROLS = {"IMAGE", "ATTACK", "EPS_255", "IMAGES"}  # parameters of the static figures
FAILED = "The explorer could not be opened. The terminal in which it was started says why."
# Voila's page, but with nothing from the internet: its icons come from there, and none is used.
TEMPLATE = """{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{{ super() | replace('<link rel="stylesheet" href="https:', '<link rel="unused" href="https:') }}
{%- endblock notebook_css -%}
"""
SETTINGS = {
    "Voila": {
        "ip": HERE,
        "config_file_paths": [],
        "log_level": "ERROR",
        "tornado_settings": {
            # An upload travels in one message; Tornado's 10 MB would cut the connection.
            "websocket_max_message_size": 256 * 2**20,
            "allow_remote_access": False,  # no foreign site may pretend to be this one
            # Voila's pages send no XSRF token when they end their kernel, and it would live on.
            # The token in the address guards against other sites.
            "disable_check_xsrf": True,
            "ws_ping_timeout": 30_000,  # not longer than the interval, or Tornado complains
        },
    },
    "VoilaConfiguration": {
        "template": "explorer",
        "show_tracebacks": False,  # the terminal gets them
        # the two halves of the widgets; what else somebody put into JupyterLab is not loaded
        "extension_allowlist": [
            "@jupyter-widgets/jupyterlab-manager",
            "@voila-dashboards/widgets-manager8",
        ],
        "file_allowlist": ["nothing"],
    },
    "VoilaExecutor": {"startup_timeout": KERNEL_START_SECONDS, "cell_error_instruction": FAILED},
    "MappingKernelManager": {"cull_idle_timeout": 900},  # seconds, of a page that has gone
}


def serve(
    given: Sequence[tuple[str, str]] = (),
    *,
    port: int,
    out: Path | None = None,
    browser: bool = True,
) -> None:
    """Serve the explorer until Ctrl-C, a closed terminal or a termination signal.

    Args:
        given: names and values of the notebook's parameters, as typed.
        port: where to listen; if it is taken, one nearby; any free one for 0.
        out: folder for saved views; the project's ``results/05_gradcam_explorer/app`` if None.
        browser: whether to open the page in the user's browser.

    Raises:
        RunError: without Voila, or without the notebook or its cells tagged app.
        ProtocolError: for a parameter that the notebook does not have, of the wrong type, or that
            is chosen on the page itself, and for a paper that does not exist.
    """
    try:
        from tornado.ioloop import IOLoop
        from traitlets.config import Config
        from voila.app import Voila
    except ImportError as error:
        raise RunError(
            f"the explorer's page needs Voila ({error}). Install it with make venv, or with "
            "pip install 'medrobust[app]'; or open the notebook in JupyterLab."
        ) from error
    root = results.project_root()
    book = app_notebook(root, given, out or root / "results" / NAME / "app")
    for name in ("CI", "MEDROBUST_HEADLESS"):  # somebody looks, whatever started this
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="medrobust-") as private:
        folder = Path(private)
        own_kernel(folder)
        template, page = folder / "voila" / "templates" / "explorer", folder / "page"
        for made in (template, page):
            made.mkdir(parents=True)
        (template / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
        (template / "conf.json").write_text(json.dumps({"base_template": "lab"}))
        nbformat.write(book, page / f"{NAME}.ipynb")
        token = secrets.token_urlsafe(16)  # other users of this machine are not asked in
        how = {"port": port or _free_port(), "token": token, "open_browser": False}
        app = Voila(config=Config(SETTINGS), connection_dir_root=private, **how)
        app.initialize([str(page / f"{NAME}.ipynb")])
        # where Voila reports a failed cell, nobody listens otherwise
        logging.getLogger("traitlets").addHandler(logging.StreamHandler())
        if hasattr(signal, "SIGHUP"):  # a closed terminal ends it as cleanly as Ctrl-C does
            signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))

        def announce() -> None:
            url = f"{app.connection_url}?token={token}"
            print(f"The explorer is at {url}\nCtrl-C ends it.", flush=True)
            if browser:  # Voila's own way leaves out the token; one in the terminal blocks
                threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

        IOLoop.current().add_callback(announce)  # once the port is open
        with suppress(KeyboardInterrupt):  # a second Ctrl-C, while the kernels end
            app.start()


def app_notebook(root: Path, given: Sequence[tuple[str, str]], out: Path) -> nbformat.NotebookNode:
    """The explorer's notebook with its parameters set, cut down to the cells tagged ``app``.

    Raises RunError and ProtocolError as ``serve`` does.
    """
    path = root / "notebooks" / f"{NAME}.ipynb"
    if not path.is_file():
        raise RunError(f"{path} is missing. Start the explorer in the project's folder.")
    for name in CONTROLS & dict(given).keys():
        raise ProtocolError(f"{name} is chosen on the page itself: leave out -p {name}.")
    runs = planning.plan([path], given=given)
    if len(runs) > 1:
        raise RunError("the explorer takes one value of each parameter, not several with commas.")
    if paper := runs[0].parameters.get("PAPER"):
        protocol.load(paper)  # refuses what is no paper
    book = load_notebook_node(str(path))
    book = parameterize_notebook(book, runs[0].parameters | {"OUT": str(out.resolve())})
    book.cells = [cell for cell in book.cells if KEPT.intersection(cell.metadata.tags)]
    if not any("app" in cell.metadata.tags for cell in book.cells):
        raise RunError(f"{path} has no cell tagged app. Restore the file from the repository.")
    # relative paths mean what they mean in the notebook itself
    moved = nbformat.v4.new_code_cell(f"import os\nos.chdir({str(path.parent)!r})")
    book.cells[:0] = [nbformat.v4.new_markdown_cell(f"# {TITLE}"), moved]
    book.metadata["title"] = TITLE
    return book


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]
