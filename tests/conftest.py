"""What all tests share."""

import jax
import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

from jaxbackprop import oracle

# Sweeps spread over all devices: more of them than cores, so that every test is one of many devices too.
jax.config.update("jax_num_cpu_devices", 8)

# The same examples in every run. The fixtures below hold no state that an example could spoil.
settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("fixed")


def pytest_configure(config):
    """Most of the suite's time is compiling, and many tests need the same programs: they are kept on disk, also for the
    next run. Each worker has its own folder, since JAX writes such a file in place, where another could read half."""
    if hasattr(config, "cache"):
        worker = getattr(config, "workerinput", {}).get("workerid", "main")
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir(f"programs-{worker}")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """A compiled program takes pieces of the memory map, of which the system gives a process 65,530: after too many
    programs XLA dies in the middle of compiling. None is needed beyond its file."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def full_precision():
    """On GPUs products of float32 matrices would otherwise be rounded to the 10 bits of TF32."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def float64():
    """Double precision for one test."""
    with oracle.float64():
        yield


@pytest.fixture
def as_users_run_it(monkeypatch):
    """Without the run-time check of shapes, which would refuse bad input before the package's own checks see it."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
