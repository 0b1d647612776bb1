"""A finished run -> a version in `models/`.

In: the weights and the calibration of a run. Out: an exported graph, compared with the network and with the version in
service, with its manifest and card; or the next version of a model, with a variant in fewer bits. Start with
`publish.py`. `adopt.py` makes a version of an ONNX file from elsewhere.
"""
