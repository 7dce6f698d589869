"""Samples of unfinished work, kept as they come: what was killed goes on without measuring anything twice.

Builds, validations and kits keep one until their results are written.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latencykit.bench import ATTEMPTS, TAKEN_AGAIN, Sample, measure_items
from latencykit.errors import InputError, NotComparableError
from latencykit.files import TEMPORARY, write_text
from latencykit.host import CpuFacts
from latencykit.measurement import Protocol, best_state_us
from latencykit.runtime import Setting
from latencykit.schema import to_json
from latencykit.sentinel import CONVOLUTION, NETWORK, SentinelModel, SentinelName
from latencykit.worker import Item


class Journal:
    """Samples of unfinished work: a JSON line each, flushed as it comes; the first says where they are from.

    Attributes:
        path: the file.
        runtime: versions by package.
        protocol: of the rows.
    """

    def __init__(
        self,
        path: Path,
        cpu: CpuFacts,
        runtime: dict[str, str],
        protocol: Protocol,
        others: Sequence[Protocol] = (),
    ) -> None:
        """Open or begin the journal.

        Args:
            path: the file.
            cpu: this machine.
            runtime: versions by package.
            protocol: of the rows, or of all there is.
            others: of what else will be measured.

        Raises:
            NotComparableError: it was begun on another machine, or with other protocols.
        """
        self.path, self.runtime, self.protocol = path, runtime, protocol
        sentinels = [CONVOLUTION.name, NETWORK.name]
        facts = {"cpu": cpu, "runtime": runtime, "protocols": [protocol, *others], "sentinels": sentinels}
        header = json.loads(json.dumps(to_json(facts)))
        self._entries: list[tuple[Setting, Sample]] = []
        if path.exists():
            self._load(_identity(header))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(header)

    def _load(self, identity: Any) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
            if "\n" not in text:  # killed while the first line was being written
                self.path.unlink()
                return
            lines = text.splitlines()
            if _identity(json.loads(lines[0])) != identity:
                raise NotComparableError(
                    f"{self.path} was begun on another CPU, runtime or protocol; delete it to start over on this one."
                )
            for index, line in enumerate(lines[1:], start=1):
                try:
                    entry = json.loads(line)
                except ValueError:
                    if index == len(lines) - 1:
                        break  # the line that was being written at the kill
                    raise
                self._entries.append((Setting(**entry["setting"]), _sample(entry["sample"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path} is not a journal of measurements ({error}); delete it to start over."
            ) from error
        whole = "".join(f"{line}\n" for line in lines[: 1 + len(self._entries)])
        if whole != text:
            write_text(self.path, whole)

    def samples(self, setting: Setting, sentinel: SentinelName | None = None) -> list[Sample]:
        """Samples of a setting so far, all or those that were held to one of the sentinels."""
        of_setting = [sample for found, sample in self._entries if found == setting]
        return [sample for sample in of_setting if sentinel in (None, sample.sentinel)]

    def append(self, setting: Setting, sample: Sample) -> None:
        """Add a sample durably."""
        self._entries.append((setting, sample))
        self._write({"setting": to_json(setting), "sample": to_json(sample)})

    def _write(self, value: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the journal, what came of it being written."""
        self.path.unlink()


def _identity(header: Any) -> Any:
    cpu = header["cpu"]
    machine = [cpu["model"], cpu["isa"], cpu["physical_cores"], header["runtime"]["onnxruntime"]]
    return [*machine, header["protocols"], header.get("sentinels")]


def _sample(data: dict[str, Any]) -> Sample:
    lists = ("samples_us", "affinity", "sentinel_us")
    return Sample(**{**data, **{name: tuple(data[name]) for name in lists}})


@dataclass(frozen=True)
class Batch:
    """Models that are measured alike.

    Attributes:
        protocol: how often each is called.
        models: by id what makes a model, since all of them together may be too large, and whether it is to run as it
            stands.
        sentinel: what tells the machine's state around them.
        reference_us: what that took at its best, earlier; what it takes in the journal counts too.
    """

    protocol: Protocol
    models: Mapping[str, tuple[Callable[[], bytes], bool]]
    sentinel: SentinelModel
    reference_us: float | None


def measure_batches(
    batches: Sequence[Batch],
    setting: Setting,
    journal: Journal,
    advance: Callable[..., object],
    attempts: int | None = None,
) -> None:
    """Measure what the journal does not hold yet.

    Every round of processes goes through all batches before the next one begins, so that whatever the machine does
    meanwhile falls on kernels and networks alike. What was taken in another state of the machine is taken again at the
    end, with patience.

    Args:
        batches: what to measure.
        setting: the execution setting.
        journal: of what was measured; what is measured goes there.
        advance: told the id of each sample set, those of the journal included, and of what is taken again, which is no
            further unit (`latencykit.lines.Advance`).
        attempts: as for `bench.measure_items`; `ATTEMPTS` where None.
    """
    asked = {name for batch in batches for name in batch.models}
    done = {(sample.id, sample.process) for sample in journal.samples(setting) if sample.id in asked}
    for name, _ in done:
        advance(name)
    rounds = max((batch.protocol.processes for batch in batches if batch.models), default=1)
    folder = journal.path.parent  # where the next build removes what a killed one leaves
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{journal.path.name}.", suffix=TEMPORARY) as scratch:
        work = [(batch, _written(batch, Path(scratch))) for batch in batches if batch.models]
        for upto, tries in [*((n, 1) for n in range(1, rounds)), (rounds, attempts or ATTEMPTS)]:
            for batch, items in work:
                part = replace(batch, protocol=replace(batch.protocol, processes=min(upto, batch.protocol.processes)))
                for sample in _measured(items, setting, part, journal, tries):
                    again = (sample.id, sample.process) in done
                    done.add((sample.id, sample.process))
                    advance(sample.id, **(TAKEN_AGAIN if again else {}))


def _written(batch: Batch, folder: Path) -> list[Item]:
    items = []
    for name, (model, as_is) in batch.models.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(model())
        items.append(Item(name, str(path), as_is))
    return items


def _measured(
    items: Sequence[Item], setting: Setting, batch: Batch, journal: Journal, attempts: int
) -> Iterator[Sample]:
    """What the journal lacks of a batch's items, written to it as it comes."""
    before = journal.samples(setting, batch.sentinel.name)
    best_us = min(best_state_us(us for sample in before for us in sample.sentinel_us), batch.reference_us or math.inf)
    names = {item.id for item in items}
    asked: dict[str, Any] = {
        "known": [sample for sample in before if sample.id in names],
        "reference_us": best_us if math.isfinite(best_us) else None,
        "attempts": attempts,
        "sentinel": batch.sentinel,
    }
    with closing(measure_items(items, setting, batch.protocol, **asked)) as samples:
        for sample in samples:
            journal.append(setting, sample)
            yield sample
