"""onnxruntime under an explicit execution setting; the only module that imports it.

`intra_op_num_threads` pins nothing, and the affinity option never pins the calling thread: both are set here, then
read back from the system and returned with the session.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from latencykit.errors import InputError, UnfitError

Optimisation = Literal["none", "basic", "extended", "all"]

_LEVELS: Mapping[Optimisation, ort.GraphOptimizationLevel] = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
PINNING_PATIENCE_S = 2.0
"""How long a worker thread may take until it has pinned itself; on an idle machine it takes well under 1 ms."""
_ERRORS_ONLY = 3  # onnxruntime's log severity


def runtime_version() -> str:
    """Version of onnxruntime."""
    return str(ort.__version__)


def runtime_versions() -> dict[str, str]:
    """What runs here, by package; `onnxruntime` decides what may be compared."""
    return {"onnxruntime": runtime_version(), "python": platform.python_version(), "numpy": np.__version__}


@dataclass(frozen=True)
class Setting:
    """An execution setting: what must be equal for two figures to be compared.

    Attributes:
        threads: calling thread included.
        pinned: each thread on a physical core of its own.
        spinning: idle workers spin instead of sleeping, onnxruntime's default.
        denormals_as_zero: else latency depends on the data.
        optimisation: onnxruntime's graph optimisation level.
    """

    threads: int = 4
    pinned: bool = True
    spinning: bool = True
    denormals_as_zero: bool = True
    optimisation: Optimisation = "all"

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads}{', pinned' if self.pinned else ''}"


class Session:
    """One live onnxruntime session with its threads pinned; a context manager, one at a time in a process.

    What the first session of a process says about denormals holds for its calling thread from then on, whatever later
    sessions say: onnxruntime sets it once. So a process that measures keeps to one setting.

    Attributes:
        affinity: processors that each thread may run on, read back from the system, the calling thread first; empty
            where the system does not tell.
    """

    def __init__(self, model: bytes | Path, setting: Setting, cpus: Sequence[int]) -> None:
        """Make the session.

        Args:
            model: the file, or its bytes.
            setting: the execution setting.
            cpus: one processor for each thread, the calling thread's first; empty where the
                system cannot pin, which an empty `affinity` then records.

        Raises:
            InputError: onnxruntime refuses the model.
            UnfitError: the threads are not where they were pinned to.
        """
        options = _options(setting)
        pin = setting.pinned and bool(cpus) and hasattr(os, "sched_setaffinity")
        if pin and setting.threads > 1:
            groups = ";".join(str(cpu + 1) for cpu in cpus[1 : setting.threads])
            options.add_session_config_entry("session.intra_op_thread_affinities", groups)
        before = _thread_ids()
        self._allowed = os.sched_getaffinity(0) if pin else None
        self._session = _session(model, options)
        if pin:
            os.sched_setaffinity(0, {cpus[0]})
        wanted = tuple(str(cpu) for cpu in cpus[: setting.threads]) if pin and before else None
        self.affinity = _settled_affinity(before, wanted) if before else ()
        if wanted is not None and self.affinity != wanted:
            os.sched_setaffinity(0, self._allowed or ())
            raise UnfitError(f"threads were to be pinned to {wanted}, the system runs them on {self.affinity}.")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session
        if self._allowed is not None:
            os.sched_setaffinity(0, self._allowed)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each input; raises `InputError` where a dimension is not fixed."""
        shapes = {}
        for tensor in self._session.get_inputs():
            if not all(isinstance(size, int) for size in tensor.shape):
                raise InputError(
                    f"the model's input {tensor.name!r} has the shape {tensor.shape}; fix every dimension."
                )
            shapes[tensor.name] = tuple(tensor.shape)
        return shapes

    def random_inputs(self, seed: int) -> dict[str, NDArray[Any]]:
        """Values in [0, 1) for every input, which is an image's range."""
        rng = np.random.default_rng(seed)
        types = {tensor.name: tensor.type for tensor in self._session.get_inputs()}
        return {n: rng.random(shape).astype(_NUMPY_TYPES.get(types[n], np.float32)) for n, shape in self.inputs.items()}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def bound(self, inputs: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """A call without copies in or out: inputs and outputs are bound once, outputs reuse their memory.

        It is called once here, so that a model that loads but cannot run is known before anything is timed.

        Raises:
            InputError: onnxruntime cannot run the model.
        """
        binding = self._session.io_binding()
        for name, value in inputs.items():
            # onnxruntime's own memory, aligned as it is within a network: numpy's begins 16 bytes off a cache line, or
            # not, as it happens, and a kernel that loads whole lines then takes 30 % longer in one process than another
            own = ort.OrtValue.ortvalue_from_shape_and_type(value.shape, value.dtype)
            own.update_inplace(value)
            binding.bind_ortvalue_input(name, own)
        for output in self._session.get_outputs():
            binding.bind_output(output.name)
        session = self._session
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise InputError(f"onnxruntime loads the model and cannot run it: {error}") from error
        return lambda: session.run_with_iobinding(binding)


_NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def optimise(model: bytes | Path, setting: Setting, target: Path) -> None:
    """Write the graph that onnxruntime really runs under this setting on this CPU."""
    options = _options(replace(setting, denormals_as_zero=False))  # nothing runs; see `Session` for what would stay
    options.optimized_model_filepath = str(target)
    _session(model, options)


def output_types(model: bytes) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape that onnxruntime infers for each output of a model, which may have none written down."""
    session = _session(model, _options(Setting(1, pinned=False, denormals_as_zero=False, optimisation="none")))
    return {output.name: (output.type, tuple(output.shape)) for output in session.get_outputs()}


def _options(setting: Setting) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = _LEVELS[setting.optimisation]
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setting.spinning)))
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(setting.denormals_as_zero)))
    return options


def _session(model: bytes | Path, options: ort.SessionOptions) -> ort.InferenceSession:
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        name = "the model" if isinstance(model, bytes) else str(model)
        raise InputError(f"onnxruntime refuses {name}: {error}") from error


def _thread_ids() -> set[int]:
    tasks = Path("/proc/self/task")
    return {int(entry.name) for entry in tasks.iterdir()} if tasks.is_dir() else set()


def _settled_affinity(before: set[int], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Where the calling thread and those younger than `before` may run, read until it is as wanted.

    A worker pins itself a moment after it was started, and a thread may end while it is looked at.
    """
    deadline_s = time.monotonic() + PINNING_PATIENCE_S
    while True:
        workers = sorted(_thread_ids() - before)
        places = (_allowed_cpus(thread) for thread in (threading.get_native_id(), *workers))
        found = tuple(place for place in places if place is not None)
        if wanted is None or found == wanted or time.monotonic() > deadline_s:
            return found
        time.sleep(0.001)


def _allowed_cpus(thread: int) -> str | None:
    """The processors of a thread; None where it has ended."""
    try:
        status = Path(f"/proc/self/task/{thread}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next(line.split(":")[1].strip() for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
