"""The commands of `python -m training` that have many steps, each in a module with `add` for its arguments.

In: parsed arguments. Out: text on the terminal and files. Start with `train.py`.
"""
