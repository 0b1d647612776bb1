"""`python -m service.keys NAME ROLE`: make an API key, print it once, and add its hash to the file of keys."""

import argparse
import os
import sys
from pathlib import Path

from service.http.keys import ROLES, VARIABLE, add
from service.settings import SettingsError


def main() -> None:
    """Make a key."""
    parser = argparse.ArgumentParser(prog="python -m service.keys", description=__doc__)
    parser.add_argument("name", help="name of the client that will use the key")
    parser.add_argument("role", choices=ROLES, help="what the key opens: predictions, load and unload, or /metrics")
    parser.add_argument("--file", type=Path, default=os.environ.get(VARIABLE), help=f"default: value of {VARIABLE}")
    args = parser.parse_args()
    if args.file is None:
        parser.error(f"missing file: give --file, or set {VARIABLE}")
    try:
        print(add(args.file, args.name, args.role))
    except SettingsError as error:
        sys.exit(f"key not made: {error}")


if __name__ == "__main__":
    main()
