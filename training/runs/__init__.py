"""Training runs: what a run leaves behind, and how runs are compared and described.

In: a recipe. Out: a folder `runs/RECIPE/TIME` with weights, metrics and plots. Start with `run.py`.
"""
