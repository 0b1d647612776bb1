"""From an HTTP request to an ONNX Runtime session and back.

In: requests, and the versions in `models/`. Out: predictions. Read it in the order of a request: `app.py`, then the
folders `server`, `http`, `routes` and `inference`; `telemetry` reports on all of them. It never imports torch or
`training`.
"""

import contract  # noqa: F401 -- turns off the telemetry of dependencies before they are imported

__version__ = "0.1.0"
