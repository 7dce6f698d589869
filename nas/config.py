"""A run's configuration: one small TOML file to frozen dataclasses, every field with its reason.

::

    name = "camus"
    seeds = [0, 1, 2]
    table = "table.json"

    [data]
    kind = "phantom"

    [search]
    epochs = 80

    [[rows]]
    name = "U-Net(16)"
    kind = "baseline"
    baseline = { width = 16, stride = 4, depth = 3 }

    [[rows]]
    name = "hardware-aware"
    kind = "search"
    macro = { segmentation_stride = 4, quality_stride = 4 }
    search = { target_ms = 3.0 }

    [[rows]]
    name = "paper"
    kind = "search"
    search = { mode = "paper" }   # from the paper's settings instead of those of [search]

    [[rows]]
    name = "nas-target"           # three rows: nas-target-0.7, nas-target-1.5, nas-target-4
    kind = "search"
    macros = {}                   # a race chooses the macro configuration first
    targets = [0.7, 1.5, 4]
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from latencykit.baselines import Baseline
from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.schema import decode, to_json
from nas.augment import Augmentation
from nas.data import DataConfig
from nas.degradations import Degradations, load_degradations
from nas.derive import Rule
from nas.macro_space import MacroSpace
from nas.optimisation import Precision

T = TypeVar("T")
Device = Literal["cpu", "cuda"]
QualitySees = Literal["image", "probability", "uncertainty"]
REPORT_SPLIT = "valid"
"""The split that is scored once per row; everything else happens on the patients of `train`."""
SHARES_TOLERANCE = 1e-6

_TRAINING = Augmentation(gain=0.2, gamma=0.2)


def _positive(table: str, config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{table}: {name} is {getattr(config, name)}; expected more than 0.")


def _not_negative(table: str, config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise InputError(f"{table}: {name} is {getattr(config, name)}; expected at least 0.")


def _shares(table: str, *shares: float) -> None:
    if min(shares) <= 0 or abs(sum(shares) - 1) > SHARES_TOLERANCE:
        raise InputError(f"{table}: the three shares are {list(shares)}; expected each above 0 and a sum of 1.")


@dataclass(frozen=True)
class SearchConfig:
    """How an architecture is searched (decisions 13, 17 to 24): by default in minutes; `SEARCH_MODES` has the paper."""

    epochs: int = 20  # in all
    warmup_epochs: int = 8  # of these, the first train weights only
    batch_size: int = 4  # small: more steps in few epochs
    max_steps_per_epoch: int | None = None  # of each pass through data; None takes all of them
    segmentation_share: float = 0.6  # of the patients, D_seg train
    quality_share: float = 0.3  # of the patients, D_seg eval
    selection_share: float = 0.1  # of the patients, only looked at
    architecture_data: Literal["bilevel", "same"] = "bilevel"  # alpha on half of D_seg train, or on the weights' stream
    weight_optimiser: Literal["sgd", "adamw"] = "adamw"  # it learns in the few hundred steps of a short search
    weight_rate: float = 0.002  # cosine to 0
    weight_momentum: float = 0.9  # of sgd
    weight_decay: float = 3e-4  # DARTS' and NAS-Unet's
    clip: float = 5.0  # largest norm of the weights' gradient
    architecture_reach: float = 3.6  # Adam's rate times the alpha steps; p = 0.9 over 5 needs a logit gap of 3.6
    temperature_start: float = 5.0
    temperature_end: float = 0.09  # in the last epoch: under 0.1 mixing is nearly choosing
    sampling: Literal["gumbel", "softmax"] = "gumbel"  # one sample for forward and LAT, or Gumbel in LAT only
    paths: Literal["all", "sampled"] = "all"  # sampled runs one candidate an edge: cheap, but learns too slowly so far
    image_divisor: int = 1  # of the images' size while searching; costs and what is derived are of the full size
    auxiliary_skip: float = 0.0  # initial weight of an identity that fades out, against collapse (DARTS-)
    lambda_quality: float = 1.0  # lambda1
    lambda_latency: float = 0.001  # lambda2, a ms
    target_ms: float | None = None  # replaces lambda2 by a multiplier that steers the derived latency here
    target_gain: float = 10.0  # weight of a violation, and of its mean over a search; a target is then met within 10 %
    stop_gradient: bool = False  # keep the quality loss from the segmentation's weights (decision 19)
    dice_weight: float = 1.0  # of a soft Dice loss; the paper has cross-entropy alone
    derive: Rule = "argmax"
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "float32"  # bfloat16: 1.4 times faster steps; what is found is not compared yet
    device: Device = "cpu"

    def __post_init__(self) -> None:
        _positive("search", self, "epochs", "batch_size", "weight_rate", "clip", "architecture_reach")
        _positive("search", self, "temperature_end", "image_divisor")
        _positive("search", self, "temperature_start", *(("target_ms",) if self.target_ms is not None else ()))
        _not_negative("search", self, "warmup_epochs", "lambda_quality", "lambda_latency", "auxiliary_skip")
        _not_negative("search", self, "weight_decay", "dice_weight", "weight_momentum", "target_gain")
        _shares("search", self.segmentation_share, self.quality_share, self.selection_share)
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"search: warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs, which leaves none for the "
                "architecture; expected fewer."
            )
        if self.max_steps_per_epoch is not None:
            _positive("search", self, "max_steps_per_epoch")


SEARCH_MODES: Mapping[str, SearchConfig] = {
    "default": SearchConfig(),
    "paper": SearchConfig(
        epochs=80,
        warmup_epochs=40,
        batch_size=8,
        segmentation_share=0.45,
        quality_share=0.45,
        weight_optimiser="sgd",
        weight_rate=0.025,
        dice_weight=0.0,
    ),
}
"""What `mode` in a search's table starts from; the paper's not hardware-aware ablation adds `lambda_latency = 0`."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network pair is trained, searched and hand-made ones alike (decision 26)."""

    epochs: int = 60  # of the segmentation, with the quality network alongside
    quality_epochs: int = 30  # of the quality network alone, the segmentation frozen
    patience: int = 0  # end a phase after so many epochs without a better one; 0 never does, as one-cycle ends well
    batch_size: int = 8
    max_steps_per_epoch: int | None = None  # None takes all the data
    segmentation_share: float = 0.6  # of the patients
    quality_share: float = 0.25  # of the patients, unseen by the segmentation
    selection_share: float = 0.15  # of the patients, to choose the best epoch by
    rate: float = 3e-3  # AdamW, peak of the one-cycle schedule
    quality_rate: float = 3e-3  # the same for the quality phase
    weight_decay: float = 1e-4
    clip: float = 5.0  # largest norm of the gradient
    lambda_quality: float = 1.0  # of the quality loss beside the segmentation's; 0 leaves it to the second phase
    stop_gradient: bool = False  # keep the quality loss from the segmentation's weights (decision 19)
    dice_weight: float = 1.0  # of the soft Dice loss beside the cross-entropy
    quality_without: tuple[QualitySees, ...] = ()  # what the quality network does not get to see; an ablation
    augmentation: Augmentation = _TRAINING
    degradations: Degradations = field(default_factory=load_degradations)  # of the quality phase's frames
    precision: Precision = "bfloat16"  # where the processor has it (`optimisation.computed_in`)
    device: Device = "cpu"

    def __post_init__(self) -> None:
        _positive("train", self, "epochs", "batch_size", "rate", "quality_rate", "clip")
        _not_negative("train", self, "quality_epochs", "patience", "weight_decay", "lambda_quality", "dice_weight")
        _shares("train", self.segmentation_share, self.quality_share, self.selection_share)
        if self.max_steps_per_epoch is not None:
            _positive("train", self, "max_steps_per_epoch")


@dataclass(frozen=True)
class RaceConfig:
    """How macro configurations race before a search (`nas.race`); needs a target.

    A random search is one round of networks as they are drawn: no `generations`, `chains` and `climb`, `drawn` of 1.
    """

    racers: Literal["networks", "supernets"] = (
        "networks"  # trained as they are, or the supernets of their configurations
    )
    candidates: int = 12  # of the first round
    epochs: tuple[int, ...] = (9, 27)  # of the segmentation's training, or of the supernet's search, in each round
    generations: int = 1  # so often the first round is repeated with the better networks and their neighbours
    quality_share: float = 0.5  # epochs of the quality phase for one of the segmentation
    keep_one_of: int = 3  # so many of the first round's candidates in a generation and in the second round, ...
    neighbours: int = 2  # of each of these, which join it for a generation: one choice changed, within the band
    chains: int = 6  # of the candidates, at most: cells that are a chain of convolutions, the most promising ones
    drawn: int = 12  # so many for each other candidate of the first round, of which the most promising ones are kept
    climb: int = 30  # tries to find each of these a neighbour that promises more, one after the other
    draws: int = 3000  # at most, to find those that are drawn, or a network's neighbours
    band: float = 0.15  # a candidate's predicted latency is less than the target by at most this part
    quality_weight: float = 1.0  # of the predicted Dice's error beside the Dice, of the same unit, in the last round
    search_cells: bool = True  # a differentiable search of the winner's cells follows; else the race alone decides

    def __post_init__(self) -> None:
        _positive("race", self, "candidates", "drawn", "draws", "band", "quality_share")
        _not_negative("race", self, "quality_weight", "generations", "neighbours", "chains", "climb")
        if not self.epochs or min(self.epochs) < 1 or self.keep_one_of < 2:
            raise InputError(
                f"race: epochs is {list(self.epochs)} and keep_one_of {self.keep_one_of}; expected rounds of at least "
                "one epoch, and to keep at most every second candidate."
            )


@dataclass(frozen=True)
class Row:
    """One row of the results: a hand-made pair, or a searched one with its search."""

    name: str
    kind: Literal["baseline", "search"]
    baseline: Baseline | None = None  # for a baseline
    macro: Macro | None = None  # for a search; the paper's where absent
    macros: MacroSpace | None = None  # for a search that first chooses its macro configuration among these
    search: dict[str, Any] = field(default_factory=dict)  # fields of [search] that differ here
    train: dict[str, Any] = field(default_factory=dict)  # fields of [train] that differ here
    race: dict[str, Any] = field(default_factory=dict)  # fields of [race] that differ here
    seeds: tuple[int, ...] | None = None  # instead of the run's, where a row is too dear for all of them

    def __post_init__(self) -> None:
        searched = self.macro is not None or self.macros is not None or self.search or self.race
        if self.kind == "baseline" and searched:
            raise InputError(
                f"row {self.name!r} is a baseline; `macro`, `macros`, `search`, `race` are for rows of kind 'search'."
            )
        if self.macro is not None and self.macros is not None:
            raise InputError(f"row {self.name!r} has a `macro` and `macros` to choose one among; expected one of them.")
        if self.kind == "search" and self.baseline is not None:
            raise InputError(f"row {self.name!r} is a search; `baseline` is for rows of kind 'baseline'.")


@dataclass(frozen=True)
class RunConfig:
    """Everything that `nas run` does."""

    rows: tuple[Row, ...]
    table: str | None = None  # path of the latency table; table.json in the output folder where absent
    name: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    race: RaceConfig = field(default_factory=RaceConfig)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # each an independent search and training
    threads: tuple[int, ...] = (4,)  # of the runtime when latencies are measured; the last one is searched for
    pace_hz: float = 30.0  # calls a second: one frame every 33 ms
    validation_networks: int = 20  # random networks that the table is checked on
    data_statement: str = "Origin and terms of the data were not stated."  # for the report

    def __post_init__(self) -> None:
        _positive("run", self, "pace_hz")
        if self.validation_networks < 2:
            raise InputError(f"run: validation_networks is {self.validation_networks}; expected at least 2.")
        if not self.threads or min(self.threads) < 1 or len(set(self.threads)) < len(self.threads):
            raise InputError(f"run: threads is {list(self.threads)}; expected different numbers of at least 1.")
        if not self.rows or not self.seeds:
            raise InputError("run: at least one row and one seed expected.")
        if len({row.name for row in self.rows}) < len(self.rows) or len(set(self.seeds)) < len(self.seeds):
            raise InputError("run: the rows' names and the seeds must each differ.")
        for seeds in [self.seeds, *(self.seeds_of(row) for row in self.rows)]:
            if not seeds or min(seeds) < 0:
                raise InputError(f"run: seeds are {list(seeds)}; expected at least one and none below 0.")
        for row in self.rows:  # a wrong override must not wait for its turn
            self.search_of(row)
            self.train_of(row)
            self.race_of(row)

    def sha256(self) -> str:
        """Hash of everything that decides the results; where files lie does not."""
        placeless = replace(self, table=None, data=replace(self.data, path=None, kind="phantom"))
        content = json.dumps([to_json(placeless), self.data.kind], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def table_path(self, out: Path) -> Path:
        """Where the latency table of a run into `out` is."""
        return Path(self.table) if self.table is not None else out / "table.json"

    def tasks(self) -> list[tuple[Row, int]]:
        """Every row under each of its seeds, all rows of a seed together."""
        seeds = dict.fromkeys([*self.seeds, *(seed for row in self.rows for seed in row.seeds or ())])
        return [(row, seed) for seed in seeds for row in self.rows if seed in self.seeds_of(row)]

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """The seeds of a row."""
        return self.seeds if row.seeds is None else row.seeds

    def search_of(self, row: Row) -> SearchConfig:
        """The search configuration of a row."""
        return overridden(self.search, row.search, f"row {row.name!r}: search")

    def train_of(self, row: Row) -> TrainConfig:
        """The training configuration of a row."""
        return overridden(self.train, row.train, f"row {row.name!r}: train")

    def race_of(self, row: Row) -> RaceConfig:
        """The race's configuration of a row."""
        return overridden(self.race, row.race, f"row {row.name!r}: race")


def load_run(path: Path) -> RunConfig:
    """Read a run's TOML file; the paths in it are relative to its folder.

    Raises:
        InputError: naming the file, the table and the field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    for name, base in (("search", SearchConfig()), ("train", TrainConfig())):
        if name in data:
            data[name] = to_json(overridden(base, data[name], f"{path}: {name}"))
    if isinstance(data.get("rows"), list):
        data["rows"] = [row for entry in data["rows"] for row in _by_target(entry, str(path))]
    config = decode(RunConfig, data, str(path))
    source = None if config.data.path is None else str(path.parent / Path(config.data.path).expanduser())
    table = None if config.table is None else str(path.parent / Path(config.table).expanduser())
    return replace(config, table=table, data=replace(config.data, path=source))


def _by_target(row: Any, where: str) -> list[Any]:
    """A row of several `targets` as one row for each, `name` and target joined by a dash; others as they are."""
    if not isinstance(row, dict) or "targets" not in row or not isinstance(row.get("name"), str):
        return [row]
    plain = {name: value for name, value in row.items() if name != "targets"}
    targets, search = row["targets"], row.get("search", {})
    numbers = isinstance(targets, list) and all(type(target) in (int, float) for target in targets)
    if not numbers or not targets or not isinstance(search, dict) or "target_ms" in search:
        raise InputError(
            f"{where}: row {row['name']!r}: targets is {targets!r}; expected milliseconds, [0.7, 1.5], and no "
            "`target_ms` beside them."
        )
    return [plain | {"name": f"{row['name']}-{t:g}", "search": search | {"target_ms": t}} for t in targets]


def overridden(base: T, changes: Any, where: str) -> T:
    """A configuration with some fields changed, nested ones field by field; raises `InputError` naming `where`.

    A search's `mode` is no field: it names what to start from instead of `base`, of which nothing stays.
    """
    if not isinstance(changes, dict):
        raise InputError(f"{where}: a table expected, got {changes!r}.")
    start: object = base
    if isinstance(base, SearchConfig) and "mode" in changes:
        mode = changes["mode"]
        if mode not in SEARCH_MODES:
            raise InputError(f"{where}: mode is {mode!r}; expected one of {', '.join(SEARCH_MODES)}.")
        changes = {name: value for name, value in changes.items() if name != "mode"}
        start = SEARCH_MODES[mode]
    return decode(type(base), _merged(to_json(start), changes), where)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    nested = {
        name: _merged(base[name], value)
        for name, value in changes.items()
        if isinstance(value, dict) and isinstance(base.get(name), dict)
    }
    return base | changes | nested
