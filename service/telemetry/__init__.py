"""What the service reports of itself: metrics, log lines, traces.

In: the facts of a request, and counts of batches and queues. Out: `/metrics`, standard output, OpenTelemetry spans.
Start with `metrics.py`.
"""
