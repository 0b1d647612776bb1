"""What a published model is, and how it is run: everything that training and serving share.

In: a version's folder, and the bytes of an image or a text. Out: probabilities, or an error of `errors.py`.
Start with `manifest.py` (what a version is) and `spec.py` (what a model takes); then `inputs.py` (bytes -> array) and
`session.py` (array -> probabilities).
"""
