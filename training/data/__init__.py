"""Sources of examples -> splits.

In: files below the data folder, and the tables `[data]` and `[input]` of a recipe. Out: a `Dataset` of decoded examples
with disjoint train, validation and test splits. Start with `dataset.py`, then `catalogue.py`.
"""
