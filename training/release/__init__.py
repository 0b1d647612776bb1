"""A finished run -> a version in `models/`.

In: a run's weights and calibration. Out: an exported graph, checked against the network and the version it replaces,
with its manifest and card; or a smaller variant of a published graph. Start with `publish.py`.
"""
