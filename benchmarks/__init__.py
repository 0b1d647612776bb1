"""Measurements of the service and of training, beside other servers and the usual script."""

import contract  # noqa: F401 -- turns off the telemetry of dependencies before they are imported
