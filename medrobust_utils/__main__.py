"""``python -m medrobust_utils run | explore | claims | report | data``."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from .core.errors import MedrobustError, RunError
from .data.download.command import add_arguments as add_data_arguments


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status: 0 done, 1 something failed, 2 bad usage."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command is not _claims:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return _claims(rest) if options.command is _claims else options.command(options)
    except MedrobustError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        from .core.disk import blame

        place, wrong = error.filename or "the disk", error.strerror or str(error)
        print(blame(place, error, f"{wrong}. Name another file or folder."), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medrobust_utils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run notebooks headlessly, in batches and grids")
    run.set_defaults(command=_run)
    run.add_argument(
        "notebooks",
        nargs="*",
        metavar="NOTEBOOK",
        help="name (01_swin_noise), its beginning (01) or path; none: all of notebooks/",
    )
    run.add_argument("--profile", metavar="P", help="smoke, small or paper")
    text = "set a parameter of the notebooks; several values make a grid"
    _add_given(run, "VALUE[,VALUE...]", text)
    run.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time")
    text = "run on the workers of a Dask cluster: the address or file of its scheduler"
    run.add_argument("--scheduler", metavar="WHERE", help=text)
    text = "what a run needs of a worker alone, as GPU=1 (with --scheduler)"
    run.add_argument("--resource", type=_resource, action="append", metavar="NAME=N", help=text)
    _add_results_folder(run, "--out", "folder that receives <notebook>/<run id>/")
    explore = commands.add_parser("explore", help="open the Grad-CAM explorer in the browser")
    explore.set_defaults(command=_explore)
    text = "where to listen (default: 8866, or one nearby; 0: any that is free)"
    explore.add_argument("--port", type=_port, default=8866, metavar="N", help=text)
    text = "only print the page's address"
    explore.add_argument("--no-browser", dest="browser", action="store_false", help=text)
    _add_given(explore, "VALUE", "set a parameter of the notebook")
    text = "folder for saved views (default: results/05_gradcam_explorer/app)"
    explore.add_argument("--out", type=Path, metavar="DIR", help=text)
    text = "what the papers say, and what the runs say to it"
    commands.add_parser("claims", help=text, add_help=False).set_defaults(command=_claims)
    report = commands.add_parser("report", help="write report.html about all runs")
    report.set_defaults(command=_report)
    _add_results_folder(report, "--results", "folder with the runs")
    text = "download the data sets whole, describe them (--list), and count what is there"
    data = commands.add_parser("data", help=text)
    data.set_defaults(command=_data)
    add_data_arguments(data)
    return parser


def _add_given(parser: argparse.ArgumentParser, value: str, text: str) -> None:
    options = {"dest": "given", "nargs": 2, "action": "append", "default": []}
    parser.add_argument("-p", metavar=("NAME", value), help=text, **options)


def _add_results_folder(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    text = f"{text} (default: results/ of the project)"
    parser.add_argument(name, type=Path, metavar="DIR", help=text, dest="results")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _resource(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    if not name or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} does not read NAME=N, as GPU=1 does")
    return name, int(number)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


# Each command imports what it needs when it is called: help and errors must not wait for torch.


def _run(options: argparse.Namespace) -> int:
    from .reporting import planning, results, runner

    out = options.results or results.project_root() / "results"
    paths = planning.find_notebooks(options.notebooks)
    given = [tuple(pair) for pair in options.given]
    runs = planning.plan(paths, options.profile, given, out)
    if options.resource and not options.scheduler or options.scheduler and options.jobs > 1:
        raise RunError("--resource goes with --scheduler, and --jobs without: there, workers do.")
    if out.exists() and not out.is_dir():
        raise RunError(f"--out {out} is a file. Name a folder for the results.")
    if options.scheduler:
        from .reporting import cluster

        outcomes = cluster.run_batch(runs, options.scheduler, dict(options.resource or ()), out)
    else:
        outcomes = runner.run_batch(runs, options.jobs)
    summary = out / "summary.csv"
    runner.write_summary(outcomes, summary)
    counts = Counter(outcome.status for outcome in outcomes)
    print(", ".join(f"{n} {status}" for status, n in counts.items()) + f"; see {summary}")
    if counts["stopped"]:
        print("Stopped. The same command goes on where it was and skips finished runs.")
        return 130
    return 1 if counts["failed"] else 0


def _explore(options: argparse.Namespace) -> int:
    from .explorer import serving

    given = [tuple(pair) for pair in options.given]
    serving.serve(given, port=options.port, out=options.out, browser=options.browser)
    return 0


def _claims(arguments: list[str]) -> int:
    from .reporting import verdicts

    return verdicts.main(arguments)


def _report(options: argparse.Namespace) -> int:
    from .reporting import report, results

    written = report.write(options.results or results.project_root() / "results")
    print(f"Report: {written}")
    return 0


def _data(options: argparse.Namespace) -> int:
    from .data.download import command

    return command.main(options)


if __name__ == "__main__":
    sys.exit(main())
