"""Does it pay to choose the volumes that are labelled? Suggested pairs beside random pairs, fine-tuned and scored.

    python benchmarks/studies/suggest.py --data FOLDER --out DIR [--pools 5] [--random 10] [--steps 500] [--jobs 2] [--weights RUN]

The recipe, network and fine-tuning are those of pipelines/hippocampus.yaml, and its test records are put aside before anything else.
Each pool is another split of the other records (by --validation, its split seed is the pool's number): its training records are what is
chosen from, its validation records are scored. In every pool each rule of `medcl suggest` names a pair from the voxels (with --weights also
from the features of that pretrained encoder), and --random random pairs are drawn; each pair is fine-tuned from scratch and, with --weights,
from the weights. A pair that several rules or pools name is trained once for each seed and start.

table.md and results.json hold, of every rule, the mean Dice minus the mean over the pool's random pairs, and its bootstrap interval
over pools (with few pools, as any bootstrap of so few, too narrow), and how many random pairs it beats. Only pools of which all pairs are scored count.
Below it, for each start and kind of features, the rank correlation of a pair's Dice with its coverage (the mean distance of the pool to
the nearer of the two, which k-medoids makes small): negative where pairs that cover their pool do better.
Stopped or killed, the same command goes on; finished networks and scores are kept.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import spearmanr

from medcl.config.data import DataConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import read_values, validate
from medcl.config.pipeline import StudyEvaluateConfig, StudyPredictConfig
from medcl.config.shipped import find_config
from medcl.config.suggest import SuggestConfig
from medcl.evaluation.scores import Evaluation, without_nan
from medcl.evaluation.selection import nearest_of
from medcl.evaluation.statistics import PairedDifference, paired_difference
from medcl.files import write_json, write_text
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import parts_of
from medcl.types import Array
from medcl.weights.read import sha256, weights_file
from medcl.workflow.commands import finetune_run, predict_records
from medcl.workflow.held_out import evaluate_records
from medcl.workflow.lanes import Task, run_tasks
from medcl.workflow.plan import digest, identity, merged
from medcl.workflow.suggest import describe_pool, suggest_from

PIPELINE = "pipelines/hippocampus.yaml"
RULES = ("k_medoids", "typiclust", "coreset")
Pair = tuple[str, ...]


@dataclass(frozen=True)
class PoolChoices:
    """One pool: its scored records, the pair of every rule by ``features: rule``, the random pairs, and by kind of features the
    coverage of each of :attr:`pairs`."""

    number: int
    validation: tuple[str, ...]
    rules: Mapping[str, Pair]
    random: tuple[Pair, ...]
    coverage: Mapping[str, tuple[float, ...]]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return (*self.rules.values(), *self.random)


@dataclass(frozen=True)
class Row:
    """A rule from one start: mean Dice over ``pools``, that of random pairs, the difference, and random pairs beaten."""

    start: str
    rule: str
    dice: float
    random: float
    difference: PairedDifference
    beaten: float
    pools: int


def choose_pools(given: argparse.Namespace) -> list[PoolChoices]:
    """What every rule names in every pool; kept in ``pools.json``, for it follows from images and arguments alone."""
    what = open_data(records_file(given.out)).digest, start_digest(given)
    key = digest("coverage", *what, given.pools, given.random, given.validation, given.count)
    kept = given.out / "pools.json"
    if kept.is_file():
        content = json.loads(kept.read_text())
        if content["key"] == key:
            return [_pool_from(values) for values in content["pools"]]
    found = [_choose(given, number) for number in range(given.pools)]
    write_json(kept, {"key": key, "pools": [asdict(pool) for pool in found]})
    return found


def _choose(given: argparse.Namespace, number: int) -> PoolChoices:
    data = DataConfig(path=records_file(given.out), validation=given.validation, split_seed=number)
    base = SuggestConfig(data=data, recipe=read_values(find_config(PIPELINE))["recipe"], count=given.count)
    rules: dict[str, Pair] = {}
    random: list[Pair] = []
    features = {}
    for name, weights in {"voxels": None, **({"encoder": given.weights} if given.weights else {})}.items():
        config = base.model_copy(update={"weights": weights})
        described = describe_pool(config)
        features[name] = described[:2]
        for rule in RULES:
            pair = suggest_from(config.model_copy(update={"rule": rule}), *described).ids
            rules[f"{name}: {rule}"] = tuple(sorted(pair))
        for seed in range(given.random if not random else 0):
            drawn = suggest_from(config.model_copy(update={"rule": "random", "seed": seed}), *described).ids
            random.append(tuple(sorted(drawn)))
    held = parts_of(open_data(data.path), data, labels=False).validation
    pairs = (*rules.values(), *random)
    coverage = {name: tuple(_coverage(*found, pair) for pair in pairs) for name, found in features.items()}
    return PoolChoices(number, held, rules, tuple(random), coverage)


def _coverage(manifest: Manifest, features: Array, pair: Pair) -> float:
    """The mean distance of the pool's records to the nearer of ``pair``."""
    return float(nearest_of(features, [manifest.ids.index(name) for name in pair])[1].mean())


def _pool_from(values: Mapping[str, Any]) -> PoolChoices:
    rules = {name: tuple(pair) for name, pair in values["rules"].items()}
    random = tuple(tuple(pair) for pair in values["random"])
    return PoolChoices(values["number"], tuple(values["validation"]), rules, random, values["coverage"])


def records_file(out: Path) -> Path:
    """The records that the study may see."""
    return out / "records.jsonl"


def start_digest(given: argparse.Namespace) -> str | None:
    """The bytes of the weights."""
    return sha256(weights_file(given.weights)) if given.weights else None


def finetuning(given: argparse.Namespace, pair: Pair, start: str, seed: int) -> FinetuneConfig:
    """The fine-tuning of the pipeline on ``pair``; the same for the same pair, start and seed, whatever the pool."""
    pipeline = read_values(find_config(PIPELINE))
    section = dict(pipeline["finetune"])
    values = merged(read_values(find_config(section.pop("config"))), section)
    warmup = min(values["optimiser"].get("warmup", 0), given.steps // 10)
    values = merged(values, {"optimiser": {"warmup": warmup}, "trainer": {"threads": given.threads}})
    values |= {
        "out": given.out,
        "data": {"path": records_file(given.out), "store": given.out / f"prepared-{start}", "records": list(pair)},
        "recipe": pipeline["recipe"],
        "encoder": pipeline["encoder"],
        "init": given.weights if start == "pretrained" else None,
        "steps": given.steps,
        "seed": seed,
    }
    config = validate(FinetuneConfig, values)
    name = identity(config, open_data(config.data.path).digest, start_digest(given) if config.init else None)
    folder = given.out / "networks" / f"{start}-s{seed}" / f"{'+'.join(pair)}-{name}"
    return config.model_copy(update={"out": folder})


def train_and_score(config: FinetuneConfig, ids: tuple[str, ...]) -> None:
    """Bring one network to its end, and its masks of ``ids`` with their scores."""
    finetune_run(config)
    masks = config.out / "masks"
    predict_records(config, ids, masks, StudyPredictConfig())
    evaluate_records(masks, config.data, ids, config.out / "scores.json", StudyEvaluateConfig(on="validation"))


def dice_of(config: FinetuneConfig) -> dict[str, float]:
    """Mean Dice over classes of every scored record of a network; empty before it is scored."""
    scores = config.out / "scores.json"
    if not scores.is_file():
        return {}
    found = Evaluation.read(scores)
    return dict(zip(found.ids, map(float, found.values("dice")), strict=True))


class Study:
    """All networks of the study, and what came of them so far."""

    def __init__(self, given: argparse.Namespace, pools: list[PoolChoices]) -> None:
        self.given, self.pools = given, pools
        self.starts = ("scratch", *(("pretrained",) if given.weights else ()))
        needed: dict[Pair, set[str]] = defaultdict(set)
        for pool in pools:
            for pair in pool.pairs:
                needed[pair] |= set(pool.validation)
        self.needed = {pair: tuple(sorted(ids)) for pair, ids in needed.items()}
        self.dice: dict[tuple[str, int, Pair], dict[str, float]] = {}

    def configs(self) -> Iterable[tuple[tuple[str, int, Pair], FinetuneConfig]]:
        """Every network, the pools one after the other, so that an interrupted study has whole ones."""
        order = dict.fromkeys(pair for pool in self.pools for pair in pool.pairs)
        for pair in order:
            for start in self.starts:
                for seed in range(self.given.seeds):
                    yield (start, seed, pair), finetuning(self.given, pair, start, seed)

    def run(self) -> None:
        """Train and score what is missing, and write the results after each."""
        configs = {f"{config.out.parent.name}/{config.out.name}": (key, config) for key, config in self.configs()}
        tasks = []
        for name, (key, config) in configs.items():
            self.dice[key] = dice_of(config)
            ids = self.needed[key[2]]
            if not set(ids) <= set(self.dice[key]):
                tasks.append(Task(name, train_and_score, (config, ids)))
        print(f"{len(configs) - len(tasks)} of {len(configs)} networks are trained and scored")
        for done, outcome in enumerate(run_tasks(tasks, self.given.jobs, lambda name: None), 1):
            key, config = configs[outcome.name]
            self.dice[key] = dice_of(config)
            print(
                f"{done}/{len(tasks)} {outcome.name}: {outcome.state}, {outcome.seconds:.0f} s {' '.join(outcome.problems)}"
            )
            self.write()
        self.write()

    def mean_dice(self, start: str, pair: Pair, pool: PoolChoices) -> float:
        """Over the pool's validation records that have one, and the seeds; NaN where any is not scored yet."""
        found = [self.dice.get((start, seed, pair), {}) for seed in range(self.given.seeds)]
        if not all(set(pool.validation) <= set(dice) for dice in found):
            return float("nan")
        return float(np.nanmean([dice[name] for dice in found for name in pool.validation]))

    def rows(self) -> list[Row]:
        rows = []
        for start in self.starts:
            random = {pool.number: [self.mean_dice(start, pair, pool) for pair in pool.random] for pool in self.pools}
            for rule in self.pools[0].rules:
                own = {pool.number: self.mean_dice(start, pool.rules[rule], pool) for pool in self.pools}
                whole = [number for number in own if np.isfinite([own[number], *random[number]]).all()]
                if not whole:
                    continue
                dice = [own[number] for number in whole]
                means = [float(np.mean(random[number])) for number in whole]
                beaten = [float(np.mean(np.array(random[number]) < own[number])) for number in whole]
                rows.append(
                    Row(
                        start=start,
                        rule=rule,
                        dice=float(np.mean(dice)),
                        random=float(np.mean(means)),
                        difference=paired_difference(dice, means),
                        beaten=float(np.mean(beaten)),
                        pools=len(whole),
                    )
                )
        return rows

    def correlations(self) -> list[dict[str, Any]]:
        """Spearman's rank correlation of Dice with coverage over the pairs of each whole pool, by start and kind of features."""
        found = []
        for start in self.starts:
            for features in self.pools[0].coverage:
                ranks = []
                for pool in self.pools:
                    dice = [self.mean_dice(start, pair, pool) for pair in pool.pairs]
                    if np.isfinite(dice).all():
                        ranks.append(float(spearmanr(pool.coverage[features], dice).statistic))
                if ranks:
                    found.append({"start": start, "features": features, "pools": ranks, "mean": float(np.mean(ranks))})
        return found

    def write(self) -> None:
        """``table.md`` and ``results.json``."""
        rows, correlations = self.rows(), self.correlations()
        write_text(self.given.out / "table.md", markdown(rows) + "\n" + correlations_markdown(correlations))
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self.given).items()}
        pools = [
            {
                "pool": pool.number,
                "validation": list(pool.validation),
                "pairs": [
                    {
                        "rule": rule,
                        "records": list(pair),
                        **{start: self.mean_dice(start, pair, pool) for start in self.starts},
                    }
                    for rule, pair in [*pool.rules.items(), *(("random", pair) for pair in pool.random)]
                ],
            }
            for pool in self.pools
        ]
        content = {
            "arguments": arguments,
            "rows": [asdict(row) for row in rows],
            "correlations": correlations,
            "pools": pools,
        }
        write_json(self.given.out / "results.json", without_nan(content))


def markdown(rows: Iterable[Row]) -> str:
    """Dice in fractions, differences in Dice points (hundredths)."""
    lines = [
        "| start | rule | Dice | random pairs | difference in points [95 % over pools] | p | random pairs beaten | pools |",
        "| :--- | :--- | ---: | ---: | :--- | ---: | ---: | ---: |",
    ]
    for row in rows:
        gain = row.difference
        points = f"{100 * gain.mean:+.2f}"
        if np.isfinite(gain.low):
            points += f" [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"
        p = f"{gain.p:.3f}" if np.isfinite(gain.p) else ""
        lines.append(
            f"| {row.start} | {row.rule} | {row.dice:.3f} | {row.random:.3f} | {points} | {p} | {row.beaten:.0%} | {row.pools} |"
        )
    return "\n".join(lines) + "\n"


def correlations_markdown(found: Iterable[Mapping[str, Any]]) -> str:
    """A row a start and kind of features."""
    lines = [
        "| start | features | rank correlation of Dice with coverage, mean | pool by pool |",
        "| :--- | :--- | ---: | :--- |",
    ]
    for row in found:
        pools = ", ".join(f"{value:+.2f}" for value in row["pools"])
        lines.append(f"| {row['start']} | {row['features']} | {row['mean']:+.2f} | {pools} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a labelled data set, such as Task04_Hippocampus")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pools", type=int, default=5)
    parser.add_argument("--random", type=int, default=10, help="random pairs of every pool")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="a pretraining that saw no test record")
    parser.add_argument("--count", type=int, default=2, help="records that are labelled")
    parser.add_argument("--seeds", type=int, default=1, help="fine-tunings of every pair")
    parser.add_argument("--validation", type=float, default=0.25, help="share of the records that is scored")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each fine-tuning")
    given = parser.parse_args()
    manifest = open_data(given.data)
    study = validate(DataConfig, {**read_values(find_config(PIPELINE))["data"], "path": given.data})
    manifest.select(parts_of(manifest, study, labels=False).train).write(records_file(given.out))
    Study(given, choose_pools(given)).run()
    Console(width=150, markup=False).print((given.out / "table.md").read_text())


if __name__ == "__main__":
    main()
