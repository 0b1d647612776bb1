"""Convoke's training half: a recipe in, a published model version out.

Read it as the data flows: `data`, `recipe`, `shapes`, `network`, `fit`, `evaluate`, `publish`.
"""
