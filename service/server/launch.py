"""Runs `bentoml serve` in this process, so that the server is the process that was started."""

import gc
import runpy
import sys


def serve(address: str, port: int) -> None:
    """Run the service until it is stopped.

    Args:
        address: an IP address; BentoML takes no host names.
        port: of TCP.
    """
    sys.argv[1:] = ["serve", "service.app:Convoke", "--host", address, "--port", str(port)]
    gc.disable()  # until `startup.announce`: collections are a tenth of the time that BentoML takes to import
    runpy.run_module("bentoml", run_name="__main__", alter_sys=True)
