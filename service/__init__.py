"""Convoke's serving half: from HTTP to an ONNX Runtime session and back.

Read it in a request's order: `app`, `routes`, `predictor`, `preprocess`, `batching`, `session`.
`repository` fills the shelf that the predictor takes models from; `manifest` is the contract with `training`.
"""

__version__ = "0.1.0"
