"""The processors that a program may use."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbackprop._checks import check_integer


def compiler_options(*, quick: bool = False) -> dict[str, int | bool]:
    """Options for `jax.jit(…, compiler_options=…)` on the default device; `quick` for what will run but a moment, where
    XLA's optimisations take longer than they save.

    XLA's CPU compiler uses 256-bit vectors unless told otherwise; on processors with 512-bit ones asking for them makes
    a step of training faster, on others it changes nothing. LLVM's passes above level 1 take longer and leave a step as
    fast at best; where an activation takes most of it, slower. XLA's older code generator, which `quick` asks for,
    compiles a sweep's program in less time, to slower code. Level 0 would compile a little faster yet, but it is wrong:
    with it (jaxlib 0.10) the gradient of a cross-entropy of a single sample came out infinite.

    **Returns:** the options; none on a GPU.
    """
    if jax.default_backend() != "cpu":
        return {}
    hurried = {"xla_cpu_use_fusion_emitters": False} if quick else {}
    return {"xla_cpu_prefer_vector_width": 512, "xla_backend_optimization_level": 1, **hurried}


def precision(dtype: Any) -> AbstractContextManager:
    """Inside a `with` block and in this thread only, JAX computes in float64 or in float32, whatever its configuration
    says."""
    wide = np.dtype(dtype) == np.float64
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(wide)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # before jax 0.8

    return enable_x64(wide)


def use_all_cores(cores: int | None = None) -> int:
    """Make every CPU core a JAX device, so that a sweep's grid axis can be spread over them. Scripts call it first.

    **Arguments:** `cores`, by default as many as this process may run on.

    **Returns:** the number of CPU devices. A GPU, where there is one, stays JAX's default.

    **Raises:** `RuntimeError` if JAX has already started its devices with another number of them; `ValueError` for less
    than one core.
    """
    present = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = present if cores is None else check_integer("cores", cores, 1)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        started = len(jax.devices("cpu"))
        if started != wanted:
            raise RuntimeError(
                f"JAX already runs with {started} CPU device{'s' * (started != 1)}, {wanted} were asked for: "
                "call use_all_cores() before the first JAX computation"
            ) from error
    return wanted


def use_compilation_cache(directory: str | Path) -> Path:
    """Keep compiled programs in a directory, so that a later process with the same shapes does not compile them again.
    Scripts call it first.

    **Returns:** the directory, which is made if need be.

    **Raises:** `ValueError` if it cannot be made.
    """
    path = Path(directory).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"directory={str(directory)!r} can't be made: {error.strerror or error}") from error
    jax.config.update("jax_compilation_cache_dir", str(path))
    # By default JAX keeps only what took a second to compile; a sweep has many programs that take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return path


def join_hosts() -> int:
    """Join processes that were started together: a sweep then spreads over the devices of all of them, and ends with
    the same result in each. Scripts call it first; for a process that is alone it does nothing.

    The processes find each other through a launcher that JAX knows (Slurm, Open MPI, Kubernetes, a TPU pod), or through
    the environment variables JAX_COORDINATOR_ADDRESS and, where no launcher sets their number and ranks,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    **Returns:** the number of processes.

    **Raises:** `RuntimeError` if JAX has already started its devices.
    """
    told = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    given: dict[str, Any] = {argument: int(os.environ[name]) for argument, name in told.items() if name in os.environ}
    try:
        jax.distributed.initialize(**given)  # it reads JAX_COORDINATOR_ADDRESS, and what launchers set, by itself
    except ValueError as error:
        if "JAX_COORDINATOR_ADDRESS" in os.environ or "coordinator_address should be defined" not in str(error):
            raise
        return 1
    return jax.process_count()
