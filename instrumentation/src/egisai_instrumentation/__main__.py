"""What the integrations say of themselves.

python -m egisai_instrumentation support        the support table, docs/support.md
python -m egisai_instrumentation oldest NAME    what to install to test a client's oldest supported version
"""

from __future__ import annotations

import re
import sys

from . import support
from .instrumentor import INTEGRATIONS


def oldest(name: str) -> list[str]:
    """Requirements of the oldest supported version of a client, by its distribution's name."""
    for integration in INTEGRATIONS:
        lowest = re.search(r">=\s*([\w.]+)", integration.versions)
        if lowest and integration.library.replace("-", "_").lower() == name.replace("-", "_").lower():
            return [f"{integration.library}=={lowest[1]}", *integration.oldest]
    raise SystemExit(f"no integration of {name!r}: there are {', '.join(each.library for each in INTEGRATIONS)}")


def main(arguments: list[str]) -> None:
    """Print what is asked for."""
    if arguments == ["support"]:
        sys.stdout.write(support.table(INTEGRATIONS))
    elif arguments[:1] == ["oldest"] and len(arguments) == 2:
        sys.stdout.write(" ".join(oldest(arguments[1])) + "\n")
    else:
        raise SystemExit((__doc__ or "").strip())


if __name__ == "__main__":
    main(sys.argv[1:])
