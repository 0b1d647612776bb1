"""Items -> probabilities: decoding, batching, and the versions that are loaded.

In: encoded images and texts, or the arrays that a graph takes. Out: a row of probabilities or an error for each item.
Start with `predictor.py`.
"""
