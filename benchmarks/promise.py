"""Does a network's promise (`nas.promise`) rank what it reaches? Rank correlations with the Dice of stored trainings.

    python -m benchmarks.promise

The trainings are those of `results/camus-races.json`, `camus-chains` and `camus-convolutions`: selection patients of
`train`. The formula was chosen by these networks, so other ones are to be believed more.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from scipy.stats import spearmanr

from latencykit.architecture import architecture_from_json, read_architecture
from nas.promise import promise

RESULTS = Path(__file__).parent / "results"
LONG = 27
"""Epochs from which on trainings of all sources are compared."""
FEWEST = 9


def main() -> None:
    """Print a line for each set of networks that trained alike."""
    sets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, candidates in json.loads((RESULTS / "camus-races.json").read_text(encoding="utf-8")).items():
        for candidate in candidates:
            promised = promise(architecture_from_json({"schema": 1} | candidate["architecture"], name))
            for trained in candidate["trained"]:
                alike = f"{LONG} epochs or more" if trained["epochs"] >= LONG else f"{name}: {trained['epochs']} epochs"
                sets[alike].append((promised, trained["dice"]))
    for path in sorted(RESULTS.glob("camus-c*/*/training.json")):
        training = json.loads(path.read_text(encoding="utf-8"))
        if training["config"]["epochs"] >= LONG:
            promised = promise(read_architecture(path.parent / "architecture.json"))
            sets[f"{LONG} epochs or more"].append((promised, training["dice_selection"]))
    for name, pairs in sorted(sets.items()):
        if len(pairs) >= FEWEST:
            correlation = spearmanr(*zip(*pairs, strict=True)).statistic
            print(f"{correlation:5.2f}  {len(pairs):3d} networks  {name}")


if __name__ == "__main__":
    main()
