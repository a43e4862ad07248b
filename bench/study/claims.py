"""What the papers claim, in a line each, and what the results say to it.

A verdict is computed, never written: ``agrees`` and ``disagrees`` where the claim's test is clear after Holm's
correction over the table's experiments, ``cannot tell`` otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .analysis import BETTER, DIGITS, TITLES, Comparison, Scores, compare, rank_scores

AGREES, DISAGREES, CANNOT_TELL = "agrees", "disagrees", "cannot tell"


class Verdict(NamedTuple):
    """What the miniature says to a claim."""

    answer: str
    evidence: str


class Evidence(NamedTuple):
    """What a claim may look at."""

    scores: dict[str, Scores]
    against_baseline: dict[str, dict[str, Comparison]]  # metric -> experiment
    demonstrations: dict[str, Any]


class Claim(NamedTuple):
    """One claim of one paper."""

    paper: str
    text: str
    needs: tuple[str, ...]  # experiments, or "demonstrations"
    judge: Callable[[Evidence], Verdict]


def _described(metric: str, c: Comparison) -> str:
    return f"{TITLES[metric]} {c.difference:+.{DIGITS[metric]}f} (p = {c.p:.2g})"


def _gains(evidence: Evidence, metric: str, names: tuple[str, ...]) -> tuple[list[str], list[str], list[str]]:
    """Names that are clearly better than the baseline, clearly worse, neither."""
    better, worse, neither = [], [], []
    for name in names:
        c = evidence.against_baseline[metric][name]
        if not c.significant:
            neither.append(name)
        elif c.difference * BETTER[metric] > 0:
            better.append(name)
        else:
            worse.append(name)
    return better, worse, neither


METHODS = ("boundary", "hausdorff-ma2020", "sdf-product", "multi-head-sdf-l2", "branch-sdf-l2")


def all_methods_gain(evidence: Evidence) -> Verdict:
    """Ma20: every method is better than the baseline."""
    parts, answers = [], []
    for metric in ("dice", "hd95"):
        better, worse, _ = _gains(evidence, metric, METHODS)
        parts.append(
            f"{TITLES[metric]}: {len(better)} of {len(METHODS)} clearly better than Dice alone, {len(worse)} worse"
        )
        answers.append((len(better), len(worse)))
    if any(worse for _, worse in answers):
        answer = DISAGREES
    elif any(better == len(METHODS) for better, _ in answers):
        answer = AGREES
    else:
        answer = CANNOT_TELL
    names = ", ".join(f"`{name}`" for name in METHODS)
    return Verdict(answer, f"{'; '.join(parts)} (of {names})")


def details_matter(evidence: Evidence) -> Verdict:
    """Ma20: two forms of one loss differ."""
    return _one_against_another(evidence, "hausdorff-two-sided", "hausdorff-ma2020", ("dice", "hd95"), either=True)


def hausdorff_reduces_hd(evidence: Evidence) -> Verdict:
    """Kar19: lower HD at a Dice that is not worse."""
    return _lower_distance(evidence, "hausdorff-two-sided")


def boundary_improves(evidence: Evidence) -> Verdict:
    """Ker19."""
    return _lower_distance(evidence, "boundary")


def heaviside_smaller_distances(evidence: Evidence) -> Verdict:
    """Xue20: smaller HD and ASD."""
    hd, asd = (evidence.against_baseline[m]["heaviside"] for m in ("hd95", "asd"))
    evidence_text = ", ".join(_described(m, c) for m, c in (("hd95", hd), ("asd", asd)))
    if hd.significant and asd.significant and hd.difference < 0 and asd.difference < 0:
        return Verdict(AGREES, evidence_text)
    if any(c.significant and c.difference > 0 for c in (hd, asd)):
        return Verdict(DISAGREES, evidence_text)
    return Verdict(CANNOT_TELL, evidence_text)


def rectified_as_good(evidence: Evidence) -> Verdict:
    """Val22: similar or better Dice and HD than Dice loss and boundary loss."""
    parts, worse = [], False
    for other in ("dice", "boundary"):
        for metric in ("dice", "hd95"):
            c = compare(evidence.scores, metric, other, ["region-wise"])["region-wise"]
            parts.append(f"against {other}: {_described(metric, c)}")
            worse |= c.significant and c.difference * BETTER[metric] < 0
    return Verdict(DISAGREES if worse else AGREES, "; ".join(parts))


def raw_unstable(evidence: Evidence) -> Verdict:
    """Val22: raw distances converge less often than rectified ones, on shapes and on volumes."""
    rows = evidence.demonstrations["convergence"]
    raw, rectified = (sum(row[k] for row in rows) for k in ("raw", "rectified"))
    trials = sum(row["trials"] for row in rows)
    text = f"generated shapes: {raw} of {trials} trainings converge with raw, {rectified} with rectified maps"
    on_volumes = None
    if {"region-wise", "region-wise-boundary"} <= evidence.scores.keys():
        on_volumes = compare(evidence.scores, "dice", "region-wise", ["region-wise-boundary"])[
            "region-wise-boundary"
        ]
        text += f"; volumes, raw against rectified: {_described('dice', on_volumes)}"
    if raw < rectified and (on_volumes is None or on_volumes.difference < 0):
        return Verdict(AGREES, text)
    return Verdict(DISAGREES if raw > rectified else CANNOT_TELL, text)


def wrong_signs(evidence: Evidence) -> Verdict:
    """Val22: raw maps push wrong classes up, rectified ones do not."""
    rows = evidence.demonstrations["wrong_signs"]
    text = ", ".join(f"{row['classes']} classes {100 * row['raw']['rises']:.0f} %" for row in rows)
    rectified = max(row["rectified"]["rises"] for row in rows)
    agrees = rectified == 0 and all(row["raw"]["rises"] > 0 for row in rows if row["classes"] > 2)
    return Verdict(
        AGREES if agrees else DISAGREES,
        f"pixels where a wrong class rises: {text}; rectified {100 * rectified:.0f} %",
    )


def compound_most_robust(evidence: Evidence) -> Verdict:
    """Ma21: the compound losses rank before the others."""
    ranks = rank_scores(evidence.scores)
    compound = {
        n: r
        for n, r in ranks.items()
        if evidence.scores[n].experiment.region == "dice_ce"
        or (evidence.scores[n].experiment.region and evidence.scores[n].experiment.distance
            and evidence.scores[n].experiment.head == "plain")
    }  # fmt: skip
    single = {
        n: r for n, r in ranks.items() if n not in compound and evidence.scores[n].experiment.head == "plain"
    }
    mean = {name: sum(x.values()) / len(x) for name, x in (("compound", compound), ("single", single))}
    first = min({**compound, **single}.items(), key=lambda item: item[1])
    text = (
        f"mean rank {mean['compound']:.1f} of {len(compound)} compound losses, {mean['single']:.1f} of "
        f"{len(single)} single ones; the first is {first[0]} ({first[1]:.1f}); no test is made of ranks"
    )
    return Verdict(AGREES if mean["compound"] < mean["single"] and first[0] in compound else DISAGREES, text)


def map_dice_improves(evidence: Evidence) -> Verdict:
    """Li20: MapDice, as printed, is better than Dice."""
    c = evidence.against_baseline["dice"]["map-dice-printed"]
    repaired = evidence.against_baseline["dice"]["map-dice"]
    text = f"as printed {_described('dice', c)}, repaired {_described('dice', repaired)}"
    if not c.significant:
        return Verdict(CANNOT_TELL, text)
    return Verdict(AGREES if c.difference > 0 else DISAGREES, text)


def lr_net_improves(evidence: Evidence) -> Verdict:
    """Li20: the regression of distances by LR-Net adds to MapDice."""
    return _one_against_another(evidence, "lr-net", "map-dice", ("dice", "hd95"))


def exact_layer_replaces_lr_net(evidence: Evidence) -> Verdict:
    """The exact layer is not worse than the network that stands in for it."""
    found = {m: compare(evidence.scores, m, "lr-net", ["exact-layer"])["exact-layer"] for m in ("dice", "hd95")}
    slower, faster = (evidence.scores[n].seconds("loss") for n in ("lr-net", "exact-layer"))
    text = ", ".join(_described(m, c) for m, c in found.items())
    text += f"; its loss takes {1e3 * faster:.0f} ms, LR-Net's {1e3 * slower:.0f} ms"
    worse = any(c.significant and c.difference * BETTER[m] < 0 for m, c in found.items())
    return Verdict(DISAGREES if worse else AGREES, text)


def _lower_distance(evidence: Evidence, name: str) -> Verdict:
    hd, dice = (evidence.against_baseline[m][name] for m in ("hd95", "dice"))
    text = f"{_described('hd95', hd)}, {_described('dice', dice)}"
    if hd.significant and hd.difference < 0 and not (dice.significant and dice.difference < 0):
        return Verdict(AGREES, text)
    if hd.significant and hd.difference > 0:
        return Verdict(DISAGREES, text)
    return Verdict(CANNOT_TELL, text)


def _one_against_another(
    evidence: Evidence, one: str, other: str, metrics: tuple[str, ...], either: bool = False
) -> Verdict:
    found = {m: compare(evidence.scores, m, other, [one])[one] for m in metrics}
    text = f"{one} against {other}: " + ", ".join(_described(m, c) for m, c in found.items())
    clear = [c.difference * BETTER[m] > 0 for m, c in found.items() if c.significant]
    if not clear:
        return Verdict(CANNOT_TELL, text)
    return Verdict(AGREES if either or all(clear) else DISAGREES, text)


CLAIMS: tuple[Claim, ...] = (
    Claim("Ma20", "All five benchmark methods bring gains to the baseline.", ("dice", *METHODS), all_methods_gain),
    Claim(
        "Ma20",
        "Implementation details have a noticeable impact (here: the two forms of the Hausdorff loss).",
        ("hausdorff-two-sided", "hausdorff-ma2020"),
        details_matter,
    ),
    Claim(
        "Kar19, in Ma20 and Ma21",
        "The Hausdorff loss reduces the Hausdorff distance without degrading Dice.",
        ("dice", "hausdorff-two-sided"),
        hausdorff_reduces_hd,
    ),
    Claim(
        "Ker19, in Ma20 and Ma21",
        "The boundary loss beside Dice improves the segmentation.",
        ("dice", "boundary"),
        boundary_improves,
    ),
    Claim(
        "Xue20",
        "Predicting signed distance maps with a Heaviside layer gives smaller Hausdorff and surface distances.",
        ("dice", "heaviside"),
        heaviside_smaller_distances,
    ),
    Claim(
        "Val22",
        "Rectified region-wise loss: Dice and Hausdorff distance like or better than Dice's and boundary loss's.",
        ("dice", "boundary", "region-wise"),
        rectified_as_good,
    ),
    Claim(
        "Val22", "Raw distance maps are unstable to optimise, rectified ones are not.", ("demonstrations",),
        raw_unstable,
    ),
    Claim(
        "Val22", "With more than two classes raw maps give gradients of the wrong sign.", ("demonstrations",),
        wrong_signs,
    ),
    Claim(
        "Ma21",
        "Compound losses are the most robust; none is best throughout.",
        ("dice", "dice-ce", "boundary", "hausdorff-two-sided", "region-wise"),
        compound_most_robust,
    ),
    Claim("Li20", "MapDice improves on Dice.", ("dice", "map-dice", "map-dice-printed"), map_dice_improves),
    Claim(
        "Li20", "Regressing the distance map of the prediction by LR-Net improves on MapDice alone.",
        ("map-dice", "lr-net"), lr_net_improves,
    ),
    Claim(
        "dtkernels", "The exact distance layer in LR-Net's place is not worse, and needs no training.",
        ("lr-net", "exact-layer"), exact_layer_replaces_lr_net,
    ),
)  # fmt: skip


def judge(evidence: Evidence) -> list[tuple[Claim, Verdict]]:
    """Every claim whose experiments are there; the others say what is missing."""
    have = set(evidence.scores) | ({"demonstrations"} if evidence.demonstrations else set())
    result = []
    for claim in CLAIMS:
        missing = [name for name in claim.needs if name not in have]
        verdict = Verdict(CANNOT_TELL, f"no result of {', '.join(missing)}") if missing else claim.judge(evidence)
        result.append((claim, verdict))
    return result
