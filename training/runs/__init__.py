"""What a training run leaves behind, and how runs are looked at: log, plots, comparison, inspection.

In: a recipe. Out: a folder `runs/NAME` with weights, metrics and plots. Start with `run.py`.
"""
