"""How good a network is: its metrics on a split, and the calibration of its probabilities.

In: logits or probabilities, and labels. Out: accuracy, log-likelihood, calibration error, temperature.
Start with `metrics.py`.
"""
