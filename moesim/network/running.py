"""Running flows: the arrays in which the fluid kernels keep who shares which link at what level.

A flow's rate is weight x level, the level being that of its *owner*, the link that is its bottleneck (see maxmin.py). A
link is *closed* once filling has given it a level; the flows of its own list have that level and are frozen. Flows whose
owner is not closed are *open*. `order` lists the closed links as they closed, and every `spacing` links a *save* remembers
what each link had left: filling restarts from any save with exactly the same numbers.

Each owner has a clock, `served`: bytes per unit of weight that its own flows got so far. A flow ends when that clock
reaches `end_served`, so a change of level moves no flow's entry; only a flow that changes owner is rewritten.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

TIME, EPOCH, SOLVES, BACKWARD, EQUAL = 0, 1, 2, 3, 4  # entries of `clock`
ACTIVE, CLOSED, EXPECTED, SPACING = 0, 1, 2, 3  # entries of `number`
LEFT, LEFT_LOST, WEIGHT, WEIGHT_LOST = 0, 1, 2, 3  # columns of `open_state`
NO_OWNER = -1
NUM_SAVES = 8
UNKNOWN = -1.0  # next_served of a link whose own flows have changed


class Running(NamedTuple):
    """Flows and links of one fluid run. Times are seconds after the epoch, the start of the present busy period."""

    clock: NDArray[np.float64]  # TIME of the last change, EPOCH, SOLVES so far, largest BACKWARD change, 1 if weights are EQUAL
    number: NDArray[np.int64]  # ACTIVE links, CLOSED links, links in `order` with those EXPECTED to close, SPACING of saves
    # per link
    floor_s: NDArray[np.float64]  # a link may not run dry before this time when completions are merged
    open_state: NDArray[np.float64]  # [links, 4] capacity LEFT for open flows and their WEIGHT, each with what rounding LOST
    open_count: NDArray[np.int32]  # open flows
    level: NDArray[np.float64]  # at which the link closed; infinity while open or not full
    served: NDArray[np.float64]  # its clock, as of served_at
    served_at: NDArray[np.float64]
    next_served: NDArray[np.float64]  # the clock at which the first of its own flows ends
    due: NDArray[np.float64]  # the time of that
    base: NDArray[np.int64]  # where its rows start in row_hop and own_flow
    row_count: NDArray[np.int32]  # running flows on it
    own_count: NDArray[np.int32]  # running flows it owns
    pair_base: NDArray[np.int64]  # where its row starts in pair_*
    pair_count: NDArray[np.int32]  # other links its own flows cross, counted once per flow
    active: NDArray[np.int32]  # links with running flows are among the first `number[ACTIVE]` entries
    is_active: NDArray[np.bool_]
    heap_key: NDArray[np.float64]
    heap_link: NDArray[np.int32]
    order: NDArray[np.int32]  # the closed links, then those expected to close next, as they did before
    position: NDArray[np.int32]  # of a closed link in `order`
    save_state: NDArray[np.float64]  # [saves, links, 4]
    save_count: NDArray[np.int32]  # [saves, links]
    # rows of links
    row_hop: NDArray[np.int32]
    own_flow: NDArray[np.int32]
    pair_hop: NDArray[np.int32]  # hops of own flows on other links: what closing a link must take from others, in one sweep
    pair_link: NDArray[np.int32]
    pair_weight: NDArray[np.float64]  # not used while weights are equal
    # per hop: one flow on one link
    hop_link: NDArray[np.int32]
    hop_flow: NDArray[np.int32]
    hop_place: NDArray[np.int32]  # index in the row of its link
    hop_pair: NDArray[np.int32]  # index in the pairs of the owner
    # per flow
    offsets: NDArray[np.int64]
    size: NDArray[np.float64]  # bytes
    weight: NDArray[np.float64]
    owner: NDArray[np.int32]
    own_place: NDArray[np.int32]  # index in the owner's own_flow
    end_served: NDArray[np.float64]
    finish: NDArray[np.float64]  # absolute seconds; NaN until it ends
    excess: NDArray[np.float64]  # bytes by which a merged completion differs from the flow's own
    batch: NDArray[np.int32]  # flows of the next completion


def new_running(
    bandwidth: NDArray[np.float64],
    offsets: NDArray[np.int64],
    links: NDArray[np.int32],
    size: NDArray[np.float64],
    weight: NDArray[np.float64],
    floor_s: NDArray[np.float64] | None = None,
) -> Running:
    """Room for these flows on these links; none of them runs yet."""
    num_links, num_flows, num_hops = len(bandwidth), len(size), len(links)
    crossing = np.bincount(links, minlength=num_links) if num_hops else np.zeros(num_links, np.int64)
    base = np.zeros(num_links, np.int64)
    np.cumsum(crossing[:-1], out=base[1:])
    others = np.repeat(np.diff(offsets) - 1, np.diff(offsets))
    pairs = np.bincount(links, weights=others, minlength=num_links).astype(np.int64) if num_hops else crossing
    pair_base = np.zeros(num_links, np.int64)
    np.cumsum(pairs[:-1], out=pair_base[1:])
    num_pairs = int(pairs.sum())
    is_equal = bool((weight == 1.0).all())
    open_state = np.zeros((num_links, 4))
    open_state[:, LEFT] = bandwidth
    return Running(
        clock=np.array([0.0, 0.0, 0.0, 0.0, float(is_equal)]),
        number=np.zeros(4, np.int64),
        floor_s=np.zeros(num_links) if floor_s is None else floor_s,
        open_state=open_state,
        open_count=np.zeros(num_links, np.int32),
        level=np.full(num_links, np.inf),
        served=np.zeros(num_links),
        served_at=np.zeros(num_links),
        next_served=np.full(num_links, UNKNOWN),
        due=np.full(num_links, np.inf),
        base=base,
        row_count=np.zeros(num_links, np.int32),
        own_count=np.zeros(num_links, np.int32),
        pair_base=pair_base,
        pair_count=np.zeros(num_links, np.int32),
        active=np.zeros(num_links, np.int32),
        is_active=np.zeros(num_links, np.bool_),
        heap_key=np.zeros(num_links),
        heap_link=np.zeros(num_links, np.int32),
        order=np.zeros(num_links, np.int32),
        position=np.zeros(num_links, np.int32),
        save_state=np.zeros((NUM_SAVES, num_links, 4)),
        save_count=np.zeros((NUM_SAVES, num_links), np.int32),
        row_hop=np.zeros(num_hops, np.int32),
        own_flow=np.zeros(num_hops, np.int32),
        pair_hop=np.zeros(num_pairs, np.int32),
        pair_link=np.zeros(num_pairs, np.int32),
        pair_weight=np.zeros(0 if is_equal else num_pairs),
        hop_link=links,
        hop_flow=np.repeat(np.arange(num_flows, dtype=np.int32), np.diff(offsets)),
        hop_place=np.zeros(num_hops, np.int32),
        hop_pair=np.zeros(num_hops, np.int32),
        offsets=offsets,
        size=size,
        weight=weight,
        owner=np.full(num_flows, NO_OWNER, np.int32),
        own_place=np.zeros(num_flows, np.int32),
        end_served=size / weight,
        finish=np.full(num_flows, np.nan),
        excess=np.zeros(num_flows),
        batch=np.zeros(num_flows, np.int32),
    )


@njit(cache=True, inline="always")
def add_exactly(state, link, column, amount):  # type: ignore[no-untyped-def]
    """Add to a sum of two floats (Knuth's TwoSum): the second keeps what the first loses to rounding."""
    before = state[link, column]
    after = before + amount
    part = after - before
    state[link, column] = after
    state[link, column + 1] += (before - (after - part)) + (amount - part)


@njit(cache=True)
def insert(run, flow):  # type: ignore[no-untyped-def]
    """Put a flow with `end_served` bytes per weight to go on its links, as open; all links must be open."""
    run.owner[flow] = NO_OWNER
    for hop in range(run.offsets[flow], run.offsets[flow + 1]):
        link = run.hop_link[hop]
        place = run.row_count[link]
        run.row_hop[run.base[link] + place] = hop
        run.hop_place[hop] = place
        run.row_count[link] = place + 1
        run.open_count[link] += 1
        add_exactly(run.open_state, link, WEIGHT, run.weight[flow])
        if not run.is_active[link]:
            run.is_active[link] = True
            run.active[run.number[ACTIVE]] = link
            run.number[ACTIVE] += 1


@njit(cache=True)
def remove(run, flow):  # type: ignore[no-untyped-def]
    """Take an open flow off its links and its owner's list."""
    leave_owner(run, flow)
    for hop in range(run.offsets[flow], run.offsets[flow + 1]):
        link = run.hop_link[hop]
        last = run.row_count[link] - 1
        moved = run.row_hop[run.base[link] + last]
        run.row_hop[run.base[link] + run.hop_place[hop]] = moved
        run.hop_place[moved] = run.hop_place[hop]
        run.row_count[link] = last
        run.open_count[link] -= 1
        add_exactly(run.open_state, link, WEIGHT, -run.weight[flow])
        for save in range(run.number[CLOSED] // max(1, run.number[SPACING])):
            run.save_count[save, link] -= 1
            add_exactly(run.save_state[save], link, WEIGHT, -run.weight[flow])


@njit(cache=True)
def join_owner(run, owner, flow):  # type: ignore[no-untyped-def]
    """Put a flow on a link's own list."""
    place = run.own_count[owner]
    run.owner[flow] = owner
    run.own_place[flow] = place
    run.own_flow[run.base[owner] + place] = flow
    run.own_count[owner] = place + 1
    run.next_served[owner] = UNKNOWN
    base, pair = run.pair_base[owner], run.pair_count[owner]
    for hop in range(run.offsets[flow], run.offsets[flow + 1]):
        if run.hop_link[hop] != owner:
            run.hop_pair[hop] = pair
            run.pair_hop[base + pair] = hop
            run.pair_link[base + pair] = run.hop_link[hop]
            if len(run.pair_weight):
                run.pair_weight[base + pair] = run.weight[flow]
            pair += 1
    run.pair_count[owner] = pair


@njit(cache=True)
def leave_owner(run, flow):  # type: ignore[no-untyped-def]
    """Take a flow off its owner's list; what is last in a list moves to the place that becomes free."""
    owner = run.owner[flow]
    last = run.own_count[owner] - 1
    moved = run.own_flow[run.base[owner] + last]
    run.own_flow[run.base[owner] + run.own_place[flow]] = moved
    run.own_place[moved] = run.own_place[flow]
    run.own_count[owner] = last
    run.next_served[owner] = UNKNOWN
    base, end = run.pair_base[owner], run.pair_base[owner] + run.pair_count[owner]
    for hop in range(run.offsets[flow], run.offsets[flow + 1]):
        if run.hop_link[hop] != owner:
            end -= 1
            free = base + run.hop_pair[hop]
            run.pair_hop[free] = run.pair_hop[end]
            run.pair_link[free] = run.pair_link[end]
            if len(run.pair_weight):
                run.pair_weight[free] = run.pair_weight[end]
            run.hop_pair[run.pair_hop[end]] = run.hop_pair[hop]
    run.pair_count[owner] = end - base


@njit(cache=True)
def left_to_send(run, flow, time):  # type: ignore[no-untyped-def]
    """Bytes per unit of weight that a running flow has yet to send at `time`."""
    owner = run.owner[flow]
    if owner == NO_OWNER:
        return run.end_served[flow]
    served = run.served[owner] + run.level[owner] * (time - run.served_at[owner])
    return max(0.0, run.end_served[flow] - served)
