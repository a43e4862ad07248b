"""What the papers claim, in a line each, and what the results say to it.

A verdict is computed, never written. A difference is *clear* where Wilcoxon's test says so after Holm's correction
and every run has its sign; what is not clear is not evidence of the contrary, so there are three answers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .analysis import DIGITS, LEVEL, TITLES, Comparison, Scores, compare, holm, rank_scores

AGREES, DISAGREES, CANNOT_TELL = "agrees", "disagrees", "cannot tell"

# What counts as similar: less than this worse, by the interval's bad end.
MARGINS = {"dice": 0.01, "hd95": 0.5}


class Verdict(NamedTuple):
    """What the miniature says to a claim."""

    answer: str
    evidence: str


class Evidence(NamedTuple):
    """What a claim may look at."""

    scores: dict[str, Scores]
    against_baseline: dict[str, dict[str, Comparison]]  # metric -> experiment
    demonstrations: dict[str, Any]

    def against(
        self, one: str, *others: str, metrics: Sequence[str] = ("dice", "hd95")
    ) -> list[dict[str, Comparison]]:
        """One experiment against each other one in each metric, corrected for the number of these tests."""
        found = [[compare(self.scores, m, other, [one])[one] for m in metrics] for other in others]
        corrected = iter(holm([c.p for row in found for c in row]))
        return [
            {m: dataclasses.replace(c, p=next(corrected)) for m, c in zip(metrics, row, strict=True)}
            for row in found
        ]


class Claim(NamedTuple):
    """One claim of one paper."""

    paper: str
    text: str
    needs: tuple[str, ...]  # experiments, or "demonstrations"
    judge: Callable[[Evidence], Verdict]


# ---- Ma20, and the losses that it compares -----------------------------------------------------------

METHODS = ("boundary", "hausdorff-ma2020", "sdf-product", "multi-head-sdf-l2", "branch-sdf-l2")


def all_methods_gain(evidence: Evidence) -> Verdict:
    """Each is better in some metric and worse in none, or some is worse and better in none."""
    found = {n: [evidence.against_baseline[m][n] for m in MARGINS] for n in METHODS}
    gain = [n for n, parts in found.items() if any(c.better for c in parts) and not any(c.worse for c in parts)]
    lose = [n for n, parts in found.items() if any(c.worse for c in parts) and not any(c.better for c in parts)]
    text = f"clearly better in Dice or HD95 and in neither worse: {_listed(gain)}; the reverse: {_listed(lose)}"
    return Verdict(DISAGREES if lose else AGREES if len(gain) == len(METHODS) else CANNOT_TELL, text)


def details_matter(evidence: Evidence) -> Verdict:
    """Two forms of one loss differ clearly."""
    (found,) = evidence.against("hausdorff-two-sided", "hausdorff-ma2020")
    text = f"two-sided against foreground only: {_described(found)}"
    return Verdict(AGREES if any(c.clear for c in found.values()) else CANNOT_TELL, text)


def smaller_distances(name: str, metrics: Iterable[str] = ("hd95",)) -> Callable[[Evidence], Verdict]:
    """These distances are smaller, and Dice is not worse: both halves are the claim."""

    def judge(evidence: Evidence) -> Verdict:
        found = {m: evidence.against_baseline[m][name] for m in (*metrics, "dice")}
        if any(c.worse for c in found.values()):
            return Verdict(DISAGREES, _described(found))
        return Verdict(AGREES if all(found[m].better for m in metrics) else CANNOT_TELL, _described(found))

    return judge


def better_dice_or_distance(name: str) -> Callable[[Evidence], Verdict]:
    """Better in Dice or HD95 and worse in neither."""

    def judge(evidence: Evidence) -> Verdict:
        found = {m: evidence.against_baseline[m][name] for m in MARGINS}
        return _better(found)

    return judge


# ---- Val22 -------------------------------------------------------------------------------------------


def rectified_as_good(evidence: Evidence) -> Verdict:
    """Similar to or better than Dice loss and boundary loss, in Dice and HD95."""
    others = ("dice", "boundary")
    rows = evidence.against("region-wise", *others)
    parts = [_no_worse(found) for found in rows]
    texts = [f"against `{other}`: {_described(found)}" for other, found in zip(others, rows, strict=True)]
    answer = DISAGREES if DISAGREES in parts else CANNOT_TELL if CANNOT_TELL in parts else AGREES
    return Verdict(answer, "; ".join(texts))


def raw_unstable(evidence: Evidence) -> Verdict:
    """Raw distances converge less often on shapes (Fisher's exact test), and learn less on volumes."""
    from scipy.stats import fisher_exact

    rows = evidence.demonstrations["convergence"]
    raw, rectified = (sum(row[k] for row in rows) for k in ("raw", "rectified"))
    trials = sum(row["trials"] for row in rows)
    p = float(fisher_exact([[raw, trials - raw], [rectified, trials - rectified]])[1])
    (found,) = evidence.against("region-wise-boundary", "region-wise", metrics=["dice"])
    volumes = found["dice"]
    text = (
        f"generated shapes: {raw} of {trials} trainings converge with raw, {rectified} with rectified maps "
        f"(p = {p:.2g}); volumes, raw against rectified: {_described(found)}, "
        f"{evidence.scores['region-wise-boundary'].missed} of {evidence.scores['region-wise-boundary'].organs} "
        "organs missed"
    )
    if volumes.better or (p < LEVEL and raw > rectified):
        return Verdict(DISAGREES, text)
    return Verdict(AGREES if volumes.worse and p < LEVEL else CANNOT_TELL, text)


def wrong_signs(evidence: Evidence) -> Verdict:
    """Raw maps push wrong classes up where there are more than two, rectified ones never."""
    rows = evidence.demonstrations["wrong_signs"]
    raw = ", ".join(f"{100 * row['raw']['rises']:.0f} % with {row['classes']} classes" for row in rows)
    rectified = max(row["rectified"]["rises"] for row in rows)
    agrees = rectified == 0 and all((row["raw"]["rises"] > 0) == (row["classes"] > 2) for row in rows)
    text = f"pixels where a wrong class rises: {raw}; rectified at most {100 * rectified:.0f} %"
    return Verdict(AGREES if agrees else DISAGREES, text)


# ---- Ma21 --------------------------------------------------------------------------------------------


def compound_most_robust(evidence: Evidence) -> Verdict:
    """The mean rank of compound losses is before that of single ones; the first one is compound."""
    ranks = rank_scores(evidence.scores)
    plain = {n: evidence.scores[n].experiment for n in ranks if evidence.scores[n].experiment.head == "plain"}
    compound = [n for n, e in plain.items() if e.region == "dice_ce" or (e.region and e.distance)]
    single = [n for n in plain if n not in compound]
    means = [sum(ranks[n] for n in names) / len(names) for names in (compound, single)]
    first = min(plain, key=lambda name: ranks[name])
    text = (
        f"mean rank {means[0]:.1f} of {len(compound)} compound losses, {means[1]:.1f} of {len(single)} single; "
        f"the first is `{first}` ({ranks[first]:.1f}); ranks are not tested"
    )
    return Verdict(AGREES if means[0] < means[1] and first in compound else DISAGREES, text)


# ---- Li20 --------------------------------------------------------------------------------------------


def lr_net_improves(evidence: Evidence) -> Verdict:
    """LR-Net beside MapDice against MapDice."""
    return _better(*evidence.against("lr-net", "map-dice"))


def exact_layer_replaces_lr_net(evidence: Evidence) -> Verdict:
    """The exact layer is not worse than the network that stands in for it."""
    (found,) = evidence.against("exact-layer", "lr-net")
    exact, net = (1e3 * evidence.scores[n].seconds("loss") for n in ("exact-layer", "lr-net"))
    text = f"{_described(found)}; the whole loss takes {exact:.0f} ms, with LR-Net {net:.0f} ms"
    return Verdict(_no_worse(found), text)


# ---- what they share ---------------------------------------------------------------------------------


def _better(found: dict[str, Comparison]) -> Verdict:
    worse, better = (any(getattr(c, word) for c in found.values()) for word in ("worse", "better"))
    answer = CANNOT_TELL if worse == better else AGREES if better else DISAGREES
    return Verdict(answer, _described(found))


def _no_worse(found: dict[str, Comparison]) -> str:
    if all(c.no_worse_than(MARGINS[m]) for m, c in found.items()):
        return AGREES
    beyond = any(c.worse and not c.no_worse_than(MARGINS[m]) for m, c in found.items())
    return DISAGREES if beyond else CANNOT_TELL


def _described(found: dict[str, Comparison]) -> str:
    parts = []
    for metric, c in found.items():
        low, high = (f"{x:+.{DIGITS[metric]}f}" for x in c.interval)
        parts.append(f"{TITLES[metric]} {c.difference:+.{DIGITS[metric]}f} [{low}, {high}] (p = {c.p:.2g})")
    return ", ".join(parts)


def _listed(names: list[str]) -> str:
    return f"{len(names)} of {len(METHODS)}" + (f" ({', '.join(f'`{n}`' for n in names)})" if names else "")


CLAIMS: tuple[Claim, ...] = (
    Claim("Ma20", "All five benchmark methods bring gains to the baseline.", ("dice", *METHODS), all_methods_gain),
    Claim(
        "Ma20", "Details of the implementation have a noticeable impact (here: two forms of the Hausdorff loss).",
        ("hausdorff-two-sided", "hausdorff-ma2020"), details_matter,
    ),
    Claim(
        "Kar19, in Ma20, Ma21", "The Hausdorff loss reduces the Hausdorff distance without degrading Dice.",
        ("dice", "hausdorff-two-sided"), smaller_distances("hausdorff-two-sided"),
    ),
    Claim(
        "Ker19, in Ma20, Ma21", "The boundary loss beside Dice improves the segmentation.",
        ("dice", "boundary"), better_dice_or_distance("boundary"),
    ),
    Claim(
        "Xue20", "Predicting signed distance maps through a Heaviside layer gives smaller Hausdorff and surface "
        "distances at an equal or better Dice.",
        ("dice", "heaviside"), smaller_distances("heaviside", ("hd95", "asd")),
    ),
    Claim(
        "Val22", "Rectified region-wise loss: Dice and Hausdorff distance like or better than Dice's and boundary "
        "loss's.",
        ("dice", "boundary", "region-wise"), rectified_as_good,
    ),
    Claim(
        "Val22", "Raw distance maps are unstable to optimise, rectified ones are not.",
        ("demonstrations", "region-wise", "region-wise-boundary"), raw_unstable,
    ),
    Claim(
        "Val22", "With more than two classes raw maps give gradients of the wrong sign.",
        ("demonstrations",), wrong_signs,
    ),
    Claim(
        "Ma21", "Compound losses are the most robust.",
        ("dice", "dice-ce", "boundary", "hausdorff-two-sided", "region-wise"), compound_most_robust,
    ),
    Claim(
        "Li20", "MapDice (as printed) improves on Dice.",
        ("dice", "map-dice-printed"), better_dice_or_distance("map-dice-printed"),
    ),
    Claim(
        "Li20", "Regressing the prediction's distance map by LR-Net improves on MapDice alone.",
        ("map-dice", "lr-net"), lr_net_improves,
    ),
    Claim(
        "here", "The exact distance layer in LR-Net's place is not worse, and needs no training.",
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
