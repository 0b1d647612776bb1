"""`python -m service.doctor`: what this machine has for the service, and what to do about what is missing.

Each line is ok, a warning, or wrong; the exit status is 1 if anything is wrong. `--json` prints the same as JSON. It
opens every served version as the service does, with the same settings, but starts no server.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from service.doctor.finding import Finding

LIBRARIES = (
    "numpy", "PIL.Image", "onnxruntime", "tokenizers", "pydantic", "prometheus_client", "httptools", "uvicorn",
    "uvloop", "bentoml",
)  # fmt: skip
"""What the service cannot start without."""

_TIMED_S = 0.2


def findings() -> Iterator[Finding]:
    """All findings, as they are made: the libraries first, and what needs them if they can be imported."""
    faults = [fault for fault in map(library_fault, LIBRARIES) if fault]
    yield from faults
    if faults:
        return
    yield Finding("libraries", "ok", f"{len(LIBRARIES)} can be imported")
    from service import settings  # noqa: PLC0415
    from service.doctor import checks  # noqa: PLC0415

    try:
        chosen = settings.from_environment()
    except settings.SettingsError as error:
        yield Finding("settings", "wrong", str(error), "correct the variable; docs/settings.md lists all")
        return
    yield from checks.examine(chosen, timed_s=_TIMED_S)


def library_fault(name: str) -> Finding | None:
    """Why a library cannot be imported; None if it can."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        todo = "install the serving environment: `make serve`, or requirements/serve-cpu.txt into this Python"
        return Finding(f"library {name}", "wrong", f"{error} in {sys.executable}", todo)
    except Exception as error:  # noqa: BLE001 -- whatever a library raises
        todo = (
            "install the system's library that the message names, or the environment anew (rm .venv/serve.ready, then "
            "make serve)"
        )
        return Finding(f"library {name}", "wrong", f"cannot be imported: {type(error).__name__}: {error}", todo)
    return None


def main() -> None:
    """Print the findings; exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m service.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    args = parser.parse_args()
    seen: list[Finding] = []
    for finding in findings():
        seen.append(finding)
        if not args.json:
            print(finding, flush=True)
    if args.json:
        print(json.dumps([asdict(finding) for finding in seen], indent=2))
    sys.exit(any(finding.state == "wrong" for finding in seen))


if __name__ == "__main__":
    main()
