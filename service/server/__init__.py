"""The process: BentoML and uvicorn, connections, workers, shutdown. Only `service/app.py` also imports these libraries.

In: a listening socket and the settings. Out: requests, as ASGI messages, for the routes. Start with `worker.py`.
"""
