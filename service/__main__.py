"""`python -m service`: run the service on this machine, and print a command to try it."""

import argparse
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path

from service import settings
from service.server import launch
from service.telemetry import log

_ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Check settings and port, print the address, and run `bentoml serve`, which checks the rest."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    default_host, default_port = os.environ.get("CONVOKE_HOST", ""), os.environ.get("CONVOKE_PORT", "")
    if "://" in default_port:  # Kubernetes sets it for a Service that is called convoke
        default_port = ""
    parser.add_argument(
        "--host", default=default_host or "127.0.0.1", help="address to listen on (default: CONVOKE_HOST or 127.0.0.1)"
    )
    parser.add_argument(
        "--port",
        default=default_port or "3000",
        help="port to listen on, 0 for a free one (default: CONVOKE_PORT or 3000)",
    )
    args = parser.parse_args()
    try:
        chosen = settings.from_environment()
        os.environ.update(settings.paths(chosen))  # relative to this folder, not to _ROOT
        address, port = _free_address(args.host, settings.port(args.port))
        _check_home()
    except (settings.SettingsError, OSError) as error:
        if os.environ.get("CONVOKE_LOG_FORMAT") == "json":
            print(log.format_line(logging.CRITICAL, f"cannot start: {error}"), flush=True)
            sys.exit(1)
        sys.exit(f"convoke cannot start: {error}")
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    if chosen.log_format != "json":
        print(
            f"Convoke listens on {url} once its models are loaded. Try it in another terminal:\n"
            f"  curl {url}/models\n"
            f"  curl --data-binary @FILE {url}/classify/MODEL\n"
            "Stop it with Ctrl-C.",
            flush=True,
        )
    os.chdir(_ROOT)
    launch.serve(address, port)


def _check_home() -> None:
    """Check the folders that BentoML and the workers write to.

    Raises:
        OSError: one cannot be written.
    """
    home = Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser()
    try:
        (home / "bentos").mkdir(parents=True, exist_ok=True)
        tempfile.gettempdir()
    except OSError as error:
        raise OSError(
            f"BENTOML_HOME={home} and a temporary folder are written to: {error}; mount a volume in memory at /tmp, or "
            "set BENTOML_HOME and TMPDIR to folders that can be written"
        ) from error


def _free_address(host: str, port: int) -> tuple[str, int]:
    """The IP address of `host`, since BentoML takes no names, and the port, after a check that it is free.

    A port of 0 is replaced by a free one.

    Raises:
        OSError: the name is unknown, or the port is in use.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
            address, port = probe.getsockname()[:2]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot listen on {host}:{port}: {reason}; choose another port: make serve PORT=3001") from error
    return str(address), int(port)


if __name__ == "__main__":
    main()
