"""A recipe: one experiment as data.

In: a TOML file. Out: a checked `Recipe`, the shapes of its layers, or an error that names each faulty key.
Start with `schema.py`.
"""
