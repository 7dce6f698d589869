"""What a kit is to measure, and how a kit and its result list their files: for the host and for the target alike."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from latencykit.bounds import require_at_most
from latencykit.calibrate import CALIBRATION_SEED, SAMPLED_NETWORKS
from latencykit.calibration import FEWEST_NETWORKS
from latencykit.coverage import COVERAGE_SEED
from latencykit.edges import FIT_NETWORKS, FIT_SEED
from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from latencykit.schema import parse_json, to_json
from latencykit.space import Architecture

KIT_FORMAT = 6
"""Raised where files of a kit or result change, the same seeds draw other networks (tested), or fits change."""
MANIFEST, PLAN = "MANIFEST", "plan.json"
TABLE, SAMPLES, VALIDATION, GRAPHS = "table.json", "samples.json", "validation.json", "optimised"
VALIDATION_NETWORKS = 40
VALIDATION_SEED = 30_000
MAX_MACROS = 32
MAX_NETWORKS = 2_000
MAX_SEED = 2**31
MAX_VERSION = 100
TRIAL_FIT_NETWORKS = 56
"""Enough for processes to be started that lower them, as in a run that counts."""
_MODEL_ID = re.compile(r"model-[0-9a-f]{16}")
_FILE_NAME = re.compile(r"[^/\\:]{1,150}")


@dataclass(frozen=True)
class KitPlan:
    """What a kit measures; whole networks travel as their architectures, which seeds draw again.

    Attributes:
        format: of kit and result.
        latencykit: version that made the kit.
        macros: the space's macro configurations.
        fit_networks, sampled_networks: as `calibrate.space_needs` takes them.
        validation_networks: unseen networks to time for each macro configuration.
        validation_seed: what draws them.
        models: files of the user's own models by `table.model_id`.
        trial: a run to see that all works, whose figures are worth nothing.
    """

    format: int
    latencykit: str
    macros: tuple[Macro, ...]
    fit_networks: int = FIT_NETWORKS
    sampled_networks: int = SAMPLED_NETWORKS
    validation_networks: int = VALIDATION_NETWORKS
    validation_seed: int = VALIDATION_SEED
    models: Mapping[str, str] = field(default_factory=dict)
    trial: bool = False

    def __post_init__(self) -> None:
        require_format(self.format)
        for name, least in (
            *(("fit_networks", 5), ("sampled_networks", FEWEST_NETWORKS)),
            *(("validation_networks", 2), ("validation_seed", 0)),
        ):
            if getattr(self, name) < least:
                raise InputError(f"a kit's {name} is {getattr(self, name)}; expected at least {least}.")
            require_at_most(f"a kit's {name}", getattr(self, name), MAX_SEED if name.endswith("seed") else MAX_NETWORKS)
        require_at_most("the number of a kit's macro configurations", len(self.macros), MAX_MACROS)
        if not self.macros or len(set(self.macros)) < len(self.macros):
            raise InputError("a kit's macro configurations: at least one expected, and each once.")
        if self.validation_seed in (COVERAGE_SEED, FIT_SEED, CALIBRATION_SEED):
            raise InputError(
                f"a kit's validation_seed is {self.validation_seed}, which draws what tables are made with."
            )
        for name, file in self.models.items():
            if not _MODEL_ID.fullmatch(name) or not _FILE_NAME.fullmatch(file) or not file.isprintable():
                raise InputError(
                    f"a kit's model {name[:80]!r} of the file {file[:80]!r}; expected an id and a plain name."
                )
        if not self.latencykit.isprintable() or len(self.latencykit) > MAX_VERSION:
            raise InputError(f"a kit of latencykit {self.latencykit[:80]!r}; expected a version.")

    def unseen_networks(self) -> list[Architecture]:
        """The networks of the validation, macro configuration by macro configuration."""
        drawn = (sample_architectures(m, self.validation_networks, self.validation_seed) for m in self.macros)
        return [architecture for group in drawn for architecture in group]

    @property
    def as_trial(self) -> KitPlan:
        """As few networks as all of it works with."""
        few = {"fit_networks": TRIAL_FIT_NETWORKS, "sampled_networks": FEWEST_NETWORKS, "validation_networks": 2}
        return replace(self, **few, trial=True)  # type: ignore[arg-type]


def require_format(found: object) -> None:
    """Raise `InputError` for a kit or result of another format."""
    if type(found) is not int or found != KIT_FORMAT:
        older = type(found) is int and found < KIT_FORMAT
        remedy = "make and run the kit anew: latencykit kit make" if older else "update latencykit"
        raise InputError(f"it is of kit format {str(found)[:20]}, this version reads {KIT_FORMAT}; {remedy}.")


def plan_to_bytes(plan: KitPlan) -> bytes:
    """A plan as its file."""
    return (json.dumps(to_json(plan), indent=1) + "\n").encode()


def plan_from_bytes(content: bytes, where: str) -> KitPlan:
    """The plan of a kit whose manifest has been checked; raises `InputError` where it is none.

    It makes do without msgspec, which the target has not, and so does not look at every type; a result's is decoded.
    """
    data: Any = parse_json(content, where)
    try:
        macros: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in macro.items()}
            for macro in data["macros"]
        ]
        return KitPlan(**{**data, "macros": tuple(Macro(**macro) for macro in macros)})
    except (AttributeError, KeyError, TypeError, ValueError, InputError) as error:
        raise InputError(f"{where} is not a kit's plan: {error}") from error


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """The manifest of some files, as `sha256sum` writes and checks it."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def require_manifest(files: Mapping[str, bytes]) -> None:
    """Raise `InputError` unless the manifest among the files lists all others as they are."""
    if MANIFEST not in files:
        raise InputError(f"it holds no {MANIFEST}.")
    expected = manifest_of({name: content for name, content in files.items() if name != MANIFEST})
    if files[MANIFEST] != expected:
        listed = set(files[MANIFEST].decode(errors="replace").splitlines())
        wrong = [line.partition("  ")[2] for line in sorted(listed ^ set(expected.decode().splitlines()))]
        what = repr(wrong[0][:80]) if wrong else "its order"
        raise InputError(f"it was changed after it was written: {what} does not fit its {MANIFEST}.")
