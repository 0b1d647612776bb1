"""Files instead of requests: `python -m service.score`.

In: folders, files and tables of images or texts. Out: one row for each item, in files that a later run continues. Read
`scoring.py` first; `reading.py` finds the items, `writing.py` keeps the rows, `cluster.py` does the same on Ray.
"""
