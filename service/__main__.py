"""`python -m service`: run the service on this machine, and print a command to try it."""

import argparse
import os
import socket
import sys
from pathlib import Path

from service import settings
from service.server import launch

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Check settings and port, print the address, and run `bentoml serve`, which checks the rest."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", default=3000, type=int, help="port to listen on (default: %(default)s)")
    args = parser.parse_args()
    try:
        os.environ.update(settings.paths(settings.from_environment()))  # relative to this folder, not to _ROOT
        address = _free_address(args.host, args.port)
    except (settings.SettingsError, OSError, OverflowError) as error:
        sys.exit(f"convoke cannot start: {error}")
    url = f"http://{f'[{address}]' if ':' in address else address}:{args.port}"
    print(
        f"Convoke listens on {url} once its models are loaded. Try it in another terminal:\n"
        f"  curl --data-binary @examples/seven.png -H 'Content-Type: image/png' {url}/classify/digits\n"
        "Stop it with Ctrl-C.",
        flush=True,
    )
    os.chdir(_ROOT)
    launch.serve(address, args.port)


def _free_address(host: str, port: int) -> str:
    """The IP address of `host`, since BentoML takes no names, after a check that the port is free.

    Raises:
        OSError: the name is unknown, or the port is in use.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port: make serve PORT=3001"
        ) from error
    return str(target[0])


if __name__ == "__main__":
    main()
