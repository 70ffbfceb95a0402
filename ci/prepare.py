"""Prepares data on disk; called by prepare.sh. ``--help`` needs no package."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

NAMED = ("sample", "ml-1m")  # data that are no path


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="bash ci/prepare.sh",
        description="Prepares a log of any size as a folder of arrays, which data_path "
        "of notebooks 02, 03 and 04 takes and training maps into memory. The same "
        "command resumes after an interruption. See docs/data.md.",
        epilog="Rules are those of the notebooks, as in --set min_item_clicks=10.",
    )
    parser.add_argument(
        "--data",
        required=True,
        help="raw Diginetica or MovieLens-1M, or a table: a file, a folder or a glob "
        "of files; as data_path in the notebooks",
    )
    parser.add_argument("--out", required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--kind",
        choices=("sessions", "ratings"),
        default="",
        help="of data; by default found in the data",
    )
    parser.add_argument(
        "--columns",
        default="",
        help='of a table, as in "session=visit, item=sku, time=when, order=position"',
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="RULE=VALUE",
        help="a rule: order, protocol, min_session_clicks, "
        "min_item_clicks, train_until, test_from; split, test_share",
    )
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb")
    parser.add_argument(
        "--memory",
        default="1GB",
        help="of the engine (default 1GB); the process takes some 300MB more",
    )
    parser.add_argument(
        "--master",
        default="local[*]",
        help="of Spark, as in spark://host:7077 (default local[*])",
    )
    parser.add_argument("--called-from", default=os.getcwd(), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def read_rules(pairs: list[str]) -> dict[str, object]:
    """Converts ``["name=value", ...]``; whole and decimal numbers become numbers."""
    rules: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SystemExit(f"--set {pair}: write it as RULE=VALUE.")
        rules[name] = value
        for kind in (float, int):
            try:
                rules[name] = kind(value)
            except ValueError:
                continue
    return rules


def main() -> int:
    """Prepares the data; returns the exit status."""
    options = parse_options(sys.argv[1:])
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from lib.data.preparing import prepare
    from lib.errors import InputError

    here = Path(options.called_from)
    data = options.data if options.data in NAMED else here / options.data
    try:
        prepare(
            data,
            here / options.out,
            options.kind,
            options.engine,
            options.memory,
            options.master,
            options.columns,
            **read_rules(options.set),
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes after the last step")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
