"""The command `egisai-platform`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version
from typing import Final, get_args

from egisai_platform.auth import Auth, Scope
from egisai_platform.metadata import Metadata
from egisai_platform.settings import StartError, make_data_dir, resolve

_EPILOG: Final = (
    "Each option is also read from the environment, as EGISAI_PLATFORM_ and its name in capitals "
    "(--data-dir: EGISAI_PLATFORM_DATA_DIR)."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, or 1 with one message on stderr when something is in the way; bad usage exits 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = resolve(vars(options), os.environ)
        if options.command == "serve":
            from egisai_platform import serve

            serve.serve(settings, serve.say)
        else:
            make_data_dir(settings.data_dir)
            with closing(Metadata(settings.metadata)) as metadata:
                if options.command == "login":
                    _login(Auth(metadata))
                else:
                    _keys(Auth(metadata), options)
    except StartError as error:
        sys.stderr.write(f"egisai-platform: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data-dir", metavar="DIR", help="default: egisai/platform in the user's state directory")
    data.add_argument(
        "--metadata", metavar="DSN", help="keys and operators' decisions; default: sqlite in the data directory"
    )

    parser = argparse.ArgumentParser(prog="egisai-platform", description="The Egis platform.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('egisai-platform')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[data], help="run the platform", epilog=_EPILOG)
    serve.add_argument("--host", help="address to listen on; default: 127.0.0.1")
    serve.add_argument("--port", help="port to listen on; default: 4318; 0: any")
    serve.add_argument(
        "--store",
        metavar="DSN",
        help="chdb:///path or clickhouse://user:password@host:8123/database; default: chdb in the data directory",
    )
    serve.add_argument("--retention-days", metavar="N", help="drop spans older than this; default: 90; 0: keep all")

    commands.add_parser("login", parents=[data], help="print a new link to the dashboard", epilog=_EPILOG)

    keys = commands.add_parser("keys", help="make, list and revoke keys").add_subparsers(
        dest="verb", required=True, metavar="VERB"
    )
    create = keys.add_parser("create", parents=[data], help="make a key and print it, once", epilog=_EPILOG)
    create.add_argument("--organisation", required=True, help="whose data it is for: a-z, 0-9 and -")
    create.add_argument(
        "--scope", choices=get_args(Scope), default="ingest", help="default: ingest; admin is all three"
    )
    create.add_argument("--name", default="", help="a note to recognise it by")
    keys.add_parser("list", parents=[data], help="list keys, without their secrets", epilog=_EPILOG)
    revoke = keys.add_parser("revoke", parents=[data], help="make a key worthless at once", epilog=_EPILOG)
    revoke.add_argument("id", metavar="ID", help="as `keys list` shows it")
    return parser


def _login(auth: Auth) -> None:
    from egisai_platform import serve

    url = auth.last_url()
    if url is None:
        raise StartError("no platform has been started on this data directory yet: `egisai-platform serve`")
    serve.say(serve.login_link(url, auth))


def _keys(auth: Auth, options: argparse.Namespace) -> None:
    if options.verb == "create":
        try:
            key = auth.create_key(options.organisation, options.scope, options.name)
        except ValueError as error:
            raise StartError(str(error)) from error
        sys.stdout.write(key + "\n")
        sys.stderr.write("This key is shown only now: keep it where your programs read EGISAI_API_KEY.\n")
    elif options.verb == "revoke":
        if not auth.revoke_key(options.id):
            raise StartError(f"there is no key {options.id!r} in force: `egisai-platform keys list` shows them")
    else:
        rows = [("ID", "KEY", "SCOPE", "NAME", "CREATED", "LAST USED", "STATE")]
        rows += [
            (
                key.id,
                key.hint,
                key.scope,
                key.name,
                _day(key.created_at),
                _day(key.last_used_at),
                "revoked" if key.revoked_at else "in force",
            )
            for key in auth.list_keys()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
            sys.stdout.write(line.rstrip() + "\n")


def _day(time_s: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(time_s)) if time_s else "never"


if __name__ == "__main__":
    sys.exit(main())
