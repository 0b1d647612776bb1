"""`python -m service.health`: whether the service on this machine is ready; the health check of the container.

It exits with 0 if /readyz answers 200, else with 1 and the reason.
"""

import http.client
import os
import sys

_TIMEOUT_S = 4.0
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared, not bound
"""Addresses on which a server listens for all, and where this machine reaches it."""


def check(host: str, port: int, *, path: str = "/readyz") -> str:
    """What is wrong with the service at an address; empty if it is ready."""
    connection = http.client.HTTPConnection(_ANY.get(host, host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{path} on port {port} does not answer: {error}"
    finally:
        connection.close()
    return "" if status == http.HTTPStatus.OK else f"{path} on port {port} answers {status}; expected 200"


def main() -> None:
    """Check the service at CONVOKE_HOST and CONVOKE_PORT."""
    port = os.environ.get("CONVOKE_PORT", "")
    if "://" in port:  # Kubernetes sets it for a Service that is called convoke
        port = ""
    if port and not port.isdecimal():
        sys.exit(f"invalid CONVOKE_PORT {port!r}; expected a number")
    fault = check(os.environ.get("CONVOKE_HOST", ""), int(port or 3000))
    if fault:
        sys.exit(fault)


if __name__ == "__main__":
    main()
