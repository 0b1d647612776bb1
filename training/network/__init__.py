"""Recipe -> torch module.

In: a checked recipe. Out: the network that is trained, and the graph around it that is exported. Start with `build.py`.
"""
