"""Bytes in and out: what every request passes before and after its route.

In: an ASGI scope. Out: a response of any route with its request id, timings and errors; bodies within limits.
Start with `asgi.py`.
"""
