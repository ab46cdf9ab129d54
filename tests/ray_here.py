"""A Ray cluster of this machine, started once for all tests that need one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRIES = 8


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray on the loopback alone, of four processors and two GPUs, as it is told; a busy machine starts it slowly."""
    import ray

    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home
    for name in ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "CUDA_VISIBLE_DEVICES"):  # as Ray is by itself
        patch.delenv(name, raising=False)
    try:
        for left in reversed(range(TRIES)):
            try:
                ray.init(
                    address="local",
                    num_cpus=4,
                    num_gpus=2,  # which are not looked at
                    include_dashboard=False,
                    object_store_memory=80 * 2**20,
                    logging_level="ERROR",
                    log_to_driver=False,
                )
                break
            except Exception as error:  # Ray gives itself 30 seconds, which a busy machine may need
                ray.shutdown()
                if "timed out during startup" not in str(error) or not left:
                    raise
        assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
        yield
    finally:
        ray.shutdown()
        patch.undo()
