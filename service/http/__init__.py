"""Bytes in and out: what every request passes before and after its route.

In: an ASGI scope. Out: the response of a route, with request id and timings, or an error; bodies within limits. Start
with `asgi.py`.
"""
