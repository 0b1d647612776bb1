"""The front ends, one file for each protocol.

In: a request and its body. Out: calls of the predictor, and responses in JSON or as tensors. Start with `classify.py`.
"""
