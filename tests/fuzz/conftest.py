"""Hypothesis profiles: the default for `make test`, and `--hypothesis-profile=long` for `make fuzz`."""

from hypothesis import HealthCheck, settings

settings.register_profile("long", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
