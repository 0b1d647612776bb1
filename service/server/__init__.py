"""The process: BentoML and uvicorn, connections, workers, drain. Nothing else in `service` knows either library.

In: a listening socket and the settings. Out: requests, as ASGI messages, for the routes. Start with `worker.py`.
"""
