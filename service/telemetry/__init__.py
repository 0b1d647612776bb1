"""What the service reports: metrics, log lines and traces.

In: the facts of requests, and counts of batches and queues. Out: `/metrics`, standard output, OpenTelemetry spans.
Start with `metrics.py`.
"""
