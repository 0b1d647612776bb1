"""`python -m service.doctor`: what this machine has for the service, and what to do about what is missing.

In: the settings of the service. Out: findings. `__main__.py` imports the libraries and prints, `checks.py` examines.
"""
