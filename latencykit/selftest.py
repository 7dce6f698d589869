"""Does the measuring tell what is the same from what is slower? Real kernels, timed for real, slowed for real.

Each kernel is four items of one measurement: itself, itself again, and itself 5 % and 10 % slower. The slowdown is real
time in the timed block: after each call the measuring process works on the clock for that part of what the call took
(`timing.slowed`; all four items carry the cost of that). Kernels are interleaved over fresh processes like the rows
of a table, the four of each one after another, and judged all in one, by what judges tables, but process by process:
the four share each of them, and the machine's state; two tables share none.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latencykit.bench import collect, gather, measure_items
from latencykit.compare import MARGIN_PCT
from latencykit.coverage import network_kernels, stride_macros
from latencykit.errors import UsageError
from latencykit.judge import Judgement, judge
from latencykit.kernels import Kernel, kernel_model
from latencykit.macro import Macro
from latencykit.measurement import Protocol
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.worker import Item

SELFTEST_PROTOCOL = Protocol(samples=5, block_us=500, warmup_ms=2, processes=24)
"""Many processes and few samples in each, since processes differ more than samples do."""
ATTEMPTS = 2
"""A process measures all items of a kernel in one state of the machine, whatever that is, so little is lost by it."""
PAIRS = 66
PLANTED_PCT = (0.0, 5.0, 10.0)
"""What the second of a pair is slowed by."""
BARS_PCT: Mapping[float, float] = {0.0: 97.0, 5.0: 80.0, 10.0: 95.0}
"""Least share of pairs with the right verdict, by slowdown."""
LEAST_BYTES = 1 << 17
"""Kernels that move less last about as long as a call's own overhead, and the clock's step is much of their 5 %."""
NETWORKS, SEED = 12, 30_000


@dataclass(frozen=True)
class Pair:
    """A kernel against itself, slowed by `planted_pct`; right is SAME without and SLOWER with a slowdown."""

    kernel: Kernel
    planted_pct: float
    judgement: Judgement

    @property
    def right(self) -> bool:
        """Whether the verdict is the true one."""
        return self.judgement.outcome == ("SLOWER" if self.planted_pct else "SAME")


@dataclass(frozen=True)
class SelfTest:
    """All pairs of one self-test."""

    setting: Setting
    pairs: tuple[Pair, ...]

    def right_pct(self, *planted_pct: float) -> float:
        """Share of pairs with the right verdict among those slowed by one of these."""
        chosen = [pair.right for pair in self.pairs if pair.planted_pct in planted_pct]
        return 100 * sum(chosen) / len(chosen)

    @property
    def shortfalls(self) -> list[str]:
        """What is below its bar; none is a self-test that was passed."""
        names = {0.0: "unchanged pairs that read SAME", **{p: f"slowdowns of {p:g} % found" for p in PLANTED_PCT[1:]}}
        found = []
        for planted, bar in BARS_PCT.items():
            verdicts = [pair.right for pair in self.pairs if pair.planted_pct == planted]
            if self.right_pct(planted) < bar:
                found.append(f"{names[planted]}: {sum(verdicts)} of {len(verdicts)}, at least {bar:g} % expected")
        return found


def selftest_kernels(count: int, macro: Macro | None = None, least_bytes: int = LEAST_BYTES) -> list[Kernel]:
    """Different kernels that networks of a space really run, at strides 1, 2 and 4; fewer than `count` come again."""
    macros = stride_macros(macro or Macro(), (1, 2, 4))
    networks = zip(*(sample_architectures(m, NETWORKS, SEED) for m in macros), strict=True)
    found: dict[Kernel, None] = {}
    for network in itertools.chain.from_iterable(networks):
        kernels = network_kernels(network)
        found.update(dict.fromkeys(kernel for kernel in kernels if kernel.moved_bytes >= least_bytes))
        if len(found) >= count:
            break
    return list(itertools.islice(itertools.cycle(found), count))


def selftest(
    setting: Setting,
    kernels: Sequence[Kernel],
    protocol: Protocol = SELFTEST_PROTOCOL,
    advance: Callable[..., object] = lambda *_, **__: None,
) -> SelfTest:
    """Measure and judge every kernel against itself.

    Args:
        setting: the execution setting.
        kernels: from `selftest_kernels`.
        protocol: the measuring protocol.
        advance: called after each item in each process, `len(kernels) * ITEMS_A_KERNEL * protocol.processes` times.

    Raises:
        UsageError: no kernels.
        UnfitError: more threads than physical processors.
    """
    if not kernels:
        raise UsageError("a self-test of no pairs tells nothing; expected --pairs of at least 1")
    with tempfile.TemporaryDirectory() as scratch:
        items = [item for index, kernel in enumerate(kernels) for item in _items(index, kernel, Path(scratch))]
        samples = gather(measure_items(items, setting, protocol, attempts=ATTEMPTS), advance)
    found = collect(samples)
    planted = [(index, kernel, percent) for index, kernel in enumerate(kernels) for percent in PLANTED_PCT]
    judged = judge(
        [found[f"{index}"] for index, _, _ in planted],
        [found[f"{index}+{percent:g}"] for index, _, percent in planted],
        [setting] * len(planted),
        MARGIN_PCT,
        one_run=True,
    )
    pairs = zip(planted, judged, strict=True)
    return SelfTest(setting, tuple(Pair(kernel, percent, judgement) for (_, kernel, percent), judgement in pairs))


ITEMS_A_KERNEL = 1 + len(PLANTED_PCT)


def _items(index: int, kernel: Kernel, folder: Path) -> list[Item]:
    path = folder / f"{index}.onnx"
    path.write_bytes(kernel_model(kernel))
    plain = Item(f"{index}", str(path), True, 0.0, f"kernel {index}")
    return [plain, *(replace(plain, id=f"{index}+{percent:g}", slowdown_pct=percent) for percent in PLANTED_PCT)]
