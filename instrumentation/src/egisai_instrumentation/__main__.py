"""`python -m egisai_instrumentation oldest NAME`: what to install to test the oldest supported version of a client."""

from __future__ import annotations

import re
import sys

from .instrumentor import INTEGRATIONS


def oldest(name: str) -> list[str]:
    """Requirements of the oldest supported version of a client, by the name of its module or its distribution."""
    for integration in INTEGRATIONS:
        lowest = re.search(r">=\s*([\w.]+)", integration.versions)
        if lowest and integration.library.replace("-", "_").lower() == name.replace("-", "_").lower():
            return [f"{integration.library}=={lowest[1]}", *integration.oldest]
    raise SystemExit(f"no integration of {name!r}: there are {', '.join(each.library for each in INTEGRATIONS)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["oldest"] and len(sys.argv) == 3:
        sys.stdout.write(" ".join(oldest(sys.argv[2])) + "\n")
    else:
        raise SystemExit(__doc__)
