"""The training loop.

In: a recipe, a network and a training split. Out: trained weights, one record an epoch, and checkpoints to resume from.
Start with `loop.py`.
"""
