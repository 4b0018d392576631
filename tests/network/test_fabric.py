"""Transfers on a shared fabric under SimPy: against the plain event loop, at one instant, and by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.network import simulate_flows
from moesim.network.bound import bound_completion
from moesim.network.fabric import BoundFabric, Fabric, FluidFabric
from moesim.network.flow import Flows
from moesim.network.transfer import Transfer
from tests.network.naive import naive_finish
from tests.strategies.flows import Case, cases, star

FABRICS = [FluidFabric, BoundFabric]


@dataclass(frozen=True)
class Played:
    """A transfer after it was played: when each participant was told, and the transfer."""

    told: list[float]
    transfer: Transfer


def open_simple(fabric: Fabric, flows: Flows, starter: Any, num_participants: int, extra: Any = 0.0) -> Transfer:
    """Each participant starts its flows and waits for all of them."""
    own = np.arange(num_participants, dtype=np.int32)
    return fabric.open(flows, starter, starter, num_participants, np.arange(num_participants + 1), own, extra)


def play(
    fabric: Fabric, plan: list[tuple[float, Flows, list[int], list[float]]], *, foreign: float = 0.0
) -> list[Played]:
    """Open transfers at given times; participant p arrives at opening + delay[p]. `foreign`: a clock that ticks besides."""
    env, played = fabric.env, [Played([], None) for _ in plan]  # type: ignore[arg-type]

    def participant(transfer: Transfer, index: int, delay: float, told: list[float]) -> Iterator[simpy.Event]:
        yield env.timeout(delay)
        yield transfer.arrive(index)
        told[index] = env.now

    def opener(which: int) -> Iterator[simpy.Event]:
        at, flows, starter, delays = plan[which]
        yield env.timeout(at)
        transfer = open_simple(fabric, flows, np.array(starter, np.int32), len(delays))
        played[which] = Played([np.nan] * len(delays), transfer)
        for index, delay in enumerate(delays):
            env.process(participant(transfer, index, delay, played[which].told))

    def ticking() -> Iterator[simpy.Event]:
        for _ in range(40):
            yield env.timeout(foreign)

    for which in range(len(plan)):
        env.process(opener(which))
    if foreign:
        env.process(ticking())
    env.run()
    return played


@st.composite
def plans(draw: st.DrawFn) -> tuple[Case, list[float], list[int], list[list[float]]]:
    """A case, when two transfers open, which of its flows belong to the second, and delays of three participants each."""
    case = draw(cases(max_flows=12))
    opened = [draw(st.sampled_from([0.0, 1.0])), draw(st.sampled_from([0.0, 0.5, 3.0]))]
    second = draw(st.lists(st.booleans(), min_size=len(case.size), max_size=len(case.size)))
    delay = st.sampled_from([0.0, 0.0, 1.0]) | st.floats(0.0, 4.0)
    delays = [draw(st.lists(delay, min_size=3, max_size=3)) for _ in range(2)]
    return case, opened, [int(flag) for flag in second], delays


def plan_of(
    case: Case, opened: list[float], second: list[int], delays: list[list[float]]
) -> tuple[list[tuple[float, Flows, list[int], list[float]]], np.ndarray, list[np.ndarray]]:
    members = [np.flatnonzero(np.array(second, int) == which) for which in range(2)]
    start = np.zeros(len(case.size))
    plan = []
    for which, flows in enumerate(members):
        part = Case(case.bandwidth, tuple(case.paths[flow] for flow in flows), case.size[flows], case.weight[flows])
        starter = [int(flow) % 3 for flow in flows]
        start[flows] = [opened[which] + delays[which][s] for s in starter]
        plan.append((opened[which], part.flows(), starter, delays[which]))
    return plan, start, members


@settings(max_examples=120)
@given(plans(), st.sampled_from([0.0, 0.3]))
def test_overlapping_transfers_end_as_in_the_plain_loop(drawn: Any, foreign: float) -> None:
    """Staggered arrivals, transfers opened while another runs, a foreign clock: every flow ends when the oracle says."""
    case = drawn[0]
    plan, start, members = plan_of(*drawn)
    expected = naive_finish(case.bandwidth, case.paths, case.size, case.weight, start)
    fabric = FluidFabric(simpy.Environment(), case.bandwidth)
    for flows, played in zip(members, play(fabric, plan, foreign=foreign), strict=True):
        np.testing.assert_allclose(played.transfer.finish_F, expected[flows], rtol=1e-9)
        np.testing.assert_allclose(played.transfer.start_F, start[flows], rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_that_send_again_when_told_disturb_the_rest_in_time(seed: int) -> None:
    """Each rank goes on to its next transfer while others are still in the last: given the starts, the oracle agrees."""
    case, num = star(5, seed, bandwidth=1e6), 5
    source, target = (np.array([path[at] for path in case.paths], np.int32) for at in (0, 1))
    latency = np.full(len(source), 0.25)
    fabric = FluidFabric(env := simpy.Environment(), case.bandwidth)
    transfers: list[Transfer] = []

    def rank(index: int) -> Iterator[simpy.Event]:
        for phase in range(3):
            if phase == len(transfers):
                transfers.append(
                    fabric.open(case.flows(latency), source, target - num, num, np.arange(num + 1), np.arange(num))
                )
            began = env.now
            yield transfers[phase].arrive(index)
            assert (transfers[phase].start_F[source == index] == began).all()
            mine = transfers[phase].finish_F[target == num + index].max()
            assert env.now == pytest.approx(max(began, mine + 0.25), rel=1e-12)

    for index in range(num):
        env.process(rank(index))
    env.run()
    start = np.concatenate([transfer.start_F for transfer in transfers])
    expected = naive_finish(case.bandwidth, case.paths * 3, np.tile(case.size, 3), np.ones(len(start)), start)
    np.testing.assert_allclose(np.concatenate([transfer.finish_F for transfer in transfers]), expected, rtol=1e-9)


@settings(max_examples=80)
@given(plans(), st.sampled_from([0.0, 0.3]))
def test_merged_times_are_exact_for_bytes_within_the_backward_error(drawn: Any, foreign: float) -> None:
    """A tolerance in the fabric: the oracle with the bytes that were really sent gives the fabric's times."""
    case = drawn[0]
    plan, start, members = plan_of(*drawn)
    fabric = FluidFabric(simpy.Environment(), case.bandwidth, tolerance=0.2)
    excess: dict[int, np.ndarray] = {}
    take_in = fabric._run.take_in

    def keep_excess(transfer: Transfer) -> None:  # opening another transfer forgets those that are over
        if fabric._run._entries:
            remember()
        take_in(transfer)

    def remember() -> None:
        for entry in fabric._run._entries.values():
            part = fabric._run._run.flow["excess"][entry.first_flow :][: entry.transfer.flows.num_flows]
            excess[id(entry.transfer)] = excess.get(id(entry.transfer), 0.0) + part

    fabric._links.take_in = keep_excess  # type: ignore[method-assign]
    both = play(fabric, plan, foreign=foreign)
    remember()
    size = case.size.copy()
    for flows, played in zip(members, both, strict=True):
        size[flows] += excess[id(played.transfer)]
    change = np.abs(size - case.size)[case.size > 0] / case.size[case.size > 0]
    assert change.max(initial=0.0) <= fabric.backward_error * (1 + 1e-6) + 1e-12
    expected = naive_finish(case.bandwidth, case.paths, size, case.weight, start)
    for flows, played in zip(members, both, strict=True):
        np.testing.assert_allclose(played.transfer.finish_F, expected[flows], rtol=1e-9)


@given(cases(), st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=14, max_size=14), st.sampled_from([0.0, 0.25]))
def test_one_transfer_started_together_is_simulate_flows(case: Case, latencies: list[float], extra: float) -> None:
    """DES = the call without a clock; each participant is told after the latest end + latency of its flows, + extra."""
    csr, num = case.csr, 3
    latency = np.array(latencies[: len(case.size)])
    starter = np.arange(len(case.size)) % num
    env = simpy.Environment()
    transfer = open_simple(FluidFabric(env, case.bandwidth), case.flows(latency), starter, num, extra)
    told: dict[int, float] = {}
    for index in range(num):
        transfer.arrive(index).callbacks.append(lambda event, index=index: told.setdefault(index, env.now))
    env.run()
    exact = simulate_flows(case.bandwidth, csr.offsets, csr.links, case.size, weight=case.weight).finish_s
    np.testing.assert_allclose(transfer.finish_F, exact, rtol=1e-12)
    ends = [float((exact + latency)[starter == index].max(initial=0.0)) + extra for index in range(num)]
    np.testing.assert_allclose([told[index] for index in range(num)], ends, rtol=1e-12)


@given(cases(), st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=14, max_size=14))
def test_bound_fabric_started_together_is_the_bound(case: Case, latencies: list[float]) -> None:
    """One transfer whose participants arrive together ends at bound_completion."""
    latency = np.array(latencies[: len(case.size)])
    flows = case.flows(latency)
    played = play(BoundFabric(simpy.Environment(), case.bandwidth), [(0.0, flows, [0] * flows.num_flows, [0.0])])
    assert played[0].told[0] == pytest.approx(bound_completion(flows, case.bandwidth), rel=1e-12)


@given(plans())
def test_bound_fabric_is_over_before_the_fluid_one(drawn: Any) -> None:
    """Work-conserving links end no later than fair ones, arrivals staggered or not."""
    case = drawn[0]
    plan, _, _ = plan_of(*drawn)
    ends = []
    for kind in FABRICS:
        fabric = kind(simpy.Environment(), case.bandwidth)
        ends.append(max(max(played.told) for played in play(fabric, plan)))
    assert ends[1] <= ends[0] * (1 + 1e-12)


@pytest.mark.parametrize("kind", FABRICS)
@given(drawn=plans())
def test_links_carry_the_bytes_of_their_flows(kind: type, drawn: Any) -> None:
    """At the end `link_bytes` is the load of all transfers, those that are over included."""
    case = drawn[0]
    plan, _, _ = plan_of(*drawn)
    fabric = kind(simpy.Environment(), case.bandwidth)
    play(fabric, plan)
    load = np.zeros(len(case.bandwidth))
    for path, size in zip(case.paths, case.size, strict=True):
        load[list(path)] += size
    np.testing.assert_allclose(fabric.link_bytes, load, rtol=1e-12)


def test_half_way_a_link_has_carried_half() -> None:
    """`link_bytes` counts running flows by what they sent up to the last change of rates."""
    case = Case(np.array([1.0]), ((0,), (0,)), np.array([1.0, 3.0]), np.ones(2))
    fabric = FluidFabric(env := simpy.Environment(), case.bandwidth)
    transfer = open_simple(fabric, case.flows(), np.array([0, 1]), 2)
    transfer.arrive(0)
    transfer.arrive(1)
    env.run(until=2.5)
    assert fabric.link_bytes.tolist() == [2.0]


def test_all_arrivals_of_an_instant_are_shared_in_one_solve() -> None:
    """Arrivals by processes, urgent events and zero-delay chains at time 1 are all in before rates are shared."""
    case = Case(np.array([1.0]), ((0,),) * 4, np.ones(4), np.ones(4))
    fabric = FluidFabric(env := simpy.Environment(), case.bandwidth)
    transfer = open_simple(fabric, case.flows(), np.arange(4), 4)

    def chained(index: int, links: int) -> Iterator[simpy.Event]:
        yield env.timeout(1.0)
        for _ in range(links):
            yield env.timeout(0.0)
        yield transfer.arrive(index)

    for index in range(4):
        env.process(chained(index, 3 * index))
    env.run()
    assert (fabric.solves, transfer.finish_F.tolist()) == (1, [5.0] * 4)


@pytest.mark.parametrize(("kind", "events"), [(FluidFabric, 13), (BoundFabric, 10)])
def test_a_tiny_step_costs_these_simpy_events(kind: type, events: int) -> None:
    """Two ranks, one of them late, 100 flows: 2 starts, 2 timeouts, 2 turns, 2 told, 2 process ends, none per flow.

    Fluid adds a turn that the second arrival made void, one where that stopped the looking ahead, and one after the first
    rank was told, for it might have sent again.
    """
    case = Case(np.array([1.0, 1.0]), ((0,),) * 50 + ((1,),) * 50, np.arange(1.0, 101.0), np.ones(100))
    fabric = kind(env := simpy.Environment(), case.bandwidth)
    transfer = open_simple(fabric, case.flows(), np.repeat([0, 1], 50), 2)

    def rank(index: int) -> Iterator[simpy.Event]:
        yield env.timeout(index * 5.0)
        yield transfer.arrive(index)

    for index in range(2):
        env.process(rank(index))
    count = 0
    while env.peek() < float("inf"):
        env.step()
        count += 1
    assert count == events


@pytest.mark.parametrize("kind", FABRICS)
def test_who_waits_for_nothing_is_told_after_extra(kind: type) -> None:
    """No groups, groups without flows, and no flows at all: only extra_s passes."""
    case = Case(np.array([1.0]), ((0,),), np.array([7.0]), np.ones(1))
    fabric = kind(env := simpy.Environment(), case.bandwidth)
    transfer = fabric.open(case.flows(), [0], [0], 3, [0, 0, 1, 2], [5, 0], [0.5, 0.25, 0.0])
    told = {}
    for index in range(3):
        transfer.arrive(index).callbacks.append(lambda event, index=index: told.setdefault(index, env.now))
    env.run()
    assert told == {0: 0.5, 1: 0.25, 2: 7.0}


@pytest.mark.parametrize("kind", FABRICS)
def test_zero_bytes_take_their_latency(kind: type) -> None:
    """Zero traffic costs the latency only, even on a busy link."""
    case = Case(np.array([1.0]), ((0,), (0,), ()), np.array([0.0, 9.0, 3.0]), np.ones(3))
    fabric = kind(env := simpy.Environment(), case.bandwidth)
    transfer = open_simple(fabric, case.flows(np.array([0.5, 0.0, 0.25])), np.array([0, 1, 2]), 3)
    told = {}
    for index in range(3):
        transfer.arrive(index).callbacks.append(lambda event, index=index: told.setdefault(index, env.now))
    env.run()
    assert told == {0: 0.5, 1: 9.0, 2: 0.25}


@pytest.mark.parametrize("kind", FABRICS)
def test_a_late_waiter_is_told_when_it_arrives(kind: type) -> None:
    """Groups that ended long ago do not tell a participant that is not there yet."""
    case = Case(np.array([1.0]), ((0,),), np.array([1.0]), np.ones(1))
    fabric = kind(env := simpy.Environment(), case.bandwidth)
    transfer = fabric.open(case.flows(), [0], [0], 2, [0, 1, 2], [0, 0], 0.5)

    def late() -> Iterator[simpy.Event]:
        yield env.timeout(10.0)
        yield transfer.arrive(1)
        assert env.now == 10.5

    transfer.arrive(0)
    env.run(env.process(late()))
    assert transfer.finish_F.tolist() == [1.0]


def test_a_queue_behind_another_transfer_by_hand() -> None:
    """BoundFabric: 4 bytes at time 0 and 2 bytes at time 1 on one link of 1 B/s: busy until 4, then until 6, + latency."""
    first = Case(np.array([1.0]), ((0,),), np.array([4.0]), np.ones(1)).flows()
    second = Case(np.array([1.0]), ((0,),), np.array([2.0]), np.ones(1)).flows(np.array([0.5]))
    fabric = BoundFabric(simpy.Environment(), [1.0])
    played = play(fabric, [(0.0, first, [0], [0.0]), (1.0, second, [0], [0.0])])
    assert [each.told for each in played] == [[4.0], [6.5]]


def test_times_do_not_lose_precision_late_in_a_run() -> None:
    """A busy period counts from its own start: after a million seconds a microsecond transfer is still right."""
    case = star(4, seed=5)
    flows = case.flows()
    starter = [path[0] for path in case.paths]
    early, late = (
        play(FluidFabric(simpy.Environment(), case.bandwidth), [(at, flows, starter, [0.0] * 4)])[0].transfer
        for at in (0.0, 2.0**20)
    )
    np.testing.assert_allclose(late.finish_F - 2.0**20, early.finish_F, atol=2.0**-30)


def test_a_group_may_need_several_starters() -> None:
    """All-to-all: each waits for what is sent to it, which all others start."""
    case = star(4, seed=5)
    source, target = (np.array([path[at] for path in case.paths]) for at in (0, 1))
    fabric = FluidFabric(env := simpy.Environment(), case.bandwidth)
    transfer = fabric.open(case.flows(), source, target - 4, 4, np.arange(5), np.arange(4))
    told = {}
    for index in range(4):
        transfer.arrive(index).callbacks.append(lambda event, index=index: told.setdefault(index, env.now))
    env.run()
    assert told == {index: transfer.finish_F[target == 4 + index].max() for index in range(4)}


@pytest.mark.parametrize("kind", FABRICS)
def test_misuse_is_refused_in_a_sentence(kind: type) -> None:
    """Ids out of range, arriving twice, links that do not exist."""
    case = Case(np.array([1.0]), ((0,),), np.array([1.0]), np.ones(1))
    fabric = kind(simpy.Environment(), case.bandwidth)
    with pytest.raises(InputError, match="flow starter 3 is outside"):
        open_simple(fabric, case.flows(), np.array([3]), 1)
    with pytest.raises(InputError, match="waits_offsets"):
        fabric.open(case.flows(), [0], [0], 1, [0, 2], [0])
    with pytest.raises(InputError, match=r"outside 0\.\.0"):
        open_simple(fabric, Case(np.ones(3), ((2,),), np.ones(1), np.ones(1)).flows(), np.array([0]), 1)
    transfer = open_simple(fabric, case.flows(), np.array([0]), 1)
    transfer.arrive(0)
    with pytest.raises(InputError, match="arrived at this transfer before"):
        transfer.arrive(0)
    with pytest.raises(InputError, match="participant 1 is outside"):
        transfer.arrive(1)


def test_an_arrival_from_outside_the_clock_is_an_error() -> None:
    """Between two steps by hand nothing announces an arrival: the fabric says so instead of answering wrongly."""
    case = Case(np.array([1.0]), ((0,), (0,)), np.array([4.0, 1.0]), np.ones(2))
    fabric = FluidFabric(env := simpy.Environment(), case.bandwidth)
    transfer = open_simple(fabric, case.flows(), np.array([0, 1]), 2)
    transfer.arrive(0)
    env.step()
    transfer.arrive(1)
    with pytest.raises(RuntimeError, match="outside the events of the clock"):
        env.run()


def test_pausing_the_environment_changes_nothing() -> None:
    """env.run(until) is an event of the clock: what arrives after the pause is in time."""
    case = Case(np.array([1.0]), ((0,), (0,)), np.array([4.0, 1.0]), np.ones(2))
    fabric = FluidFabric(env := simpy.Environment(), case.bandwidth)
    transfer = open_simple(fabric, case.flows(), np.array([0, 1]), 2)
    transfer.arrive(0)
    env.run(until=2.0)
    transfer.arrive(1)
    env.run()
    assert transfer.finish_F.tolist() == [5.0, 4.0]
