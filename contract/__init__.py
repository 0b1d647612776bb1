"""What a published model is, and how it is run: everything that training and serving share.

In: a version's folder, and the bytes of an image or a text. Out: probabilities, or an error of `errors.py`.
Start with `manifest.py` (what a version is) and `spec.py` (what a model takes); then `inputs.py` (bytes -> array) and
`session.py` (array -> probabilities).
"""

import os

# ONNX Runtime and BentoML upload usage data, the first of them also names and hashes of files. Both read the variable
# when they are imported, so it is set here, before any module can import them; a value that the user set stays.
for _variable, _value in (("ORT_DISABLE_TELEMETRY", "1"), ("BENTOML_DO_NOT_TRACK", "True")):
    os.environ[_variable] = os.environ.get(_variable) or _value
