"""The training loop.

In: a recipe and a training split. Out: the trained network, a record of each epoch, and checkpoints to resume from.
Start with `loop.py`.
"""
