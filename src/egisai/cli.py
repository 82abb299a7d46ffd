"""The command `egisai`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import doctor


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. `doctor`: 0 all is well, 1 warnings, 2 problems."""
    parser = argparse.ArgumentParser(prog="egisai", description="Which agent made which LLM call, for whom.")
    parser.add_argument("--version", action="version", version=version("egisai"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    examining = commands.add_parser(
        "doctor",
        help="say what is set up, where spans go, what is wrong, and what to do about it",
        epilog="Exit code: 0 all is well, 1 there are warnings, 2 there are problems.",
    )
    examining.add_argument("--json", action="store_true", help="the same for programs")
    options = parser.parse_args(argv)
    try:
        findings = doctor.examine()
        _write(doctor.as_json(findings) if options.json else doctor.rendered(findings, colour=_colour()))
    except KeyboardInterrupt:
        return 130
    return doctor.exit_code(findings)


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # `egisai doctor | head`; the interpreter flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
