"""Tokens per expert behind a named distribution: what `balanced` and `power_law:ALPHA` of expert measurements mean.

The generator of NVIDIA's AIConfigurator is described, not copied (collector/helper.py of ai-dynamo/aiconfigurator):
E numbers are drawn from a bounded power law of exponent ALPHA, between 1 and 0.8 x tokens (between 0.01 and 2 where there
are no more (token, expert) pairs than experts), and scaled to sum to tokens x top_k. With more than one rank, the rank
with the largest sum is the one that is timed. Its draws are not published, so here stand their expected order.
Array letters: G experts on the timed device. Standard library only.
"""

import random
from collections.abc import Mapping
from typing import Any

_DRAWS = 16  # independent draws averaged for the most loaded rank; its mean then moves by a few percent at most


def tokens_per_expert(params: Mapping[str, Any]) -> list[int]:
    """Tokens of each expert on the timed device, largest first; `params` as in an expert_mlp measurement.

    Read in this order: `tokens` (given per expert), `tokens_per_group` (equal for all `groups`), else `distribution`
    with `num_tokens` of all ranks, `top_k`, `experts`, `groups` on the device. Raises ValueError for another distribution.
    """
    if "tokens" in params:
        return sorted((int(tokens) for tokens in params["tokens"]), reverse=True)
    groups = int(params["groups"])
    if "tokens_per_group" in params:
        return [int(params["tokens_per_group"])] * groups
    name, _, alpha = str(params["distribution"]).partition(":")
    pairs, experts = int(params["num_tokens"]) * int(params["top_k"]), int(params["experts"])
    if name == "balanced":
        return even_shares(pairs * groups // experts, groups)
    if name == "power_law" and alpha:
        return _power_law(int(params["num_tokens"]), pairs, experts, groups, float(alpha))
    raise ValueError(f"distribution {params['distribution']!r} is neither balanced nor power_law:ALPHA")


def even_shares(pairs: int, groups: int) -> list[int]:
    """`pairs` dealt round: every expert gets the mean rounded down, the first ones one more.

    >>> even_shares(10, 4)
    [3, 3, 2, 2]
    """
    mean, rest = divmod(pairs, groups)
    return [mean + 1] * rest + [mean] * (groups - rest)


def _power_law(tokens: int, pairs: int, experts: int, groups: int, alpha: float) -> list[int]:
    low, high = (1.0, 0.8 * tokens) if pairs > experts else (0.01, 2.0)
    if groups == experts:  # one rank holds all: the quantiles, without chance
        return _scaled([_quantile((i + 0.5) / experts, low, high, alpha) for i in range(experts)], pairs)
    draw = random.Random(f"{experts}/{groups}/{alpha}")
    total_G = [0.0] * groups
    for _ in range(_DRAWS):
        share_E = [_quantile(draw.random(), low, high, alpha) for _ in range(experts)]
        unit = pairs / sum(share_E)
        ranks = (share_E[first : first + groups] for first in range(0, experts, groups))
        most = sorted(max(ranks, key=sum), reverse=True)
        total_G = [total + share * unit / _DRAWS for total, share in zip(total_G, most, strict=True)]
    return _scaled(total_G, round(sum(total_G)))


def _quantile(probability: float, low: float, high: float, alpha: float) -> float:
    """Value below which a bounded power law x**-alpha on low..high lies with this probability (alpha is not 1)."""
    exponent = 1.0 - alpha
    return float((low**exponent + probability * (high**exponent - low**exponent)) ** (1.0 / exponent))


def _scaled(share: list[float], total: int) -> list[int]:
    """Whole numbers near `share` in proportion that sum to `total`, largest first; what rounding lost goes to the largest."""
    unit = total / sum(share)
    whole = [round(value * unit) for value in sorted(share, reverse=True)]
    missing = total - sum(whole)
    for i in range(missing):
        whole[i % len(whole)] += 1
    for _ in range(-missing):
        whole[whole.index(max(whole))] -= 1
    return sorted(whole, reverse=True)
