"""Settings shared by all tests."""

from hypothesis import HealthCheck, settings

# Derandomised: a red run is red again on the next machine. No deadline: the machines are shared.
settings.register_profile(
    "torchsaliency",
    deadline=None,
    derandomize=True,
    max_examples=6,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("torchsaliency")
