"""The work plan of a setting: rates, collectives, eras of faults, for given placements."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import TorusLayout
from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import CollectiveBuilder
from moesim.compute import DeviceRates
from moesim.errors import InputError
from moesim.expert_cache import ExpertCache, pin_hottest
from moesim.faults import Health, weakened
from moesim.memory import slot_bytes
from moesim.overlap import communication_sms
from moesim.placement import ExpertPlacement
from moesim.setting import Setting
from moesim.step_work import Era, WorkPlan
from moesim.traffic import copy_bytes

Ranks = NDArray[np.int64]


def sms_of(setting: Setting) -> int | None:
    """SMs the communication kernel works with, as far as scenario or profile say."""
    return setting.kernel.sms if setting.scenario.dispatch.sms is None else setting.scenario.dispatch.sms


def _algorithm(setting: Setting) -> str:
    """The dispatch algorithm asked for, else the kernel's; `torus` needs a torus."""
    algorithm = setting.scenario.dispatch.algorithm or setting.kernel.algorithm
    if algorithm == "torus" and not isinstance(setting.cluster.layout, TorusLayout):
        raise InputError(
            f"dispatch.algorithm torus needs a torus, and {setting.cluster.name} is none; take direct, which sends the "
            "same copies"
        )
    return algorithm


def make_work_plan(
    setting: Setting, placements: tuple[ExpertPlacement, ...], policy: str, ranks: Ranks | None = None
) -> WorkPlan:
    """What all steps share; `ranks`: the devices of a training stage in one pipeline, by default of the first.

    A strategy that ships splits ships none where it has too many experts for a table: then the nearest copy is used.
    """
    scenario, (start, *later) = setting.scenario, setting.healths
    if policy == "split" and scenario.dispatch.replica is None and all(p.split_NP is None for p in placements):
        policy = "nearest"
    if ranks is None and setting.training:
        ranks = setting.dims.stage_ranks(0, 0)
    builder = _builder(setting, start, ranks)
    # A captured graph launches once for the whole step; prefill steps are not captured.
    launches = not (setting.decode and scenario.mode.cuda_graph)
    work = WorkPlan(
        model=setting.model,
        rates=DeviceRates.of(builder.devices, setting.profile.compute, launches=launches),
        builder=builder,
        placements=placements,
        replica_policy=policy,
        weight_dtype=setting.weight_dtype,
        decode=setting.decode,
        context_length=scenario.mode.context_length,
        seed=scenario.seed,
        capacity=setting.capacity,
        overlap=scenario.mode.overlap,
        communication_sms=communication_sms(scenario.mode.overlap, sms_of(setting), setting.cluster.devices),
        tp=setting.dims.tp,
        etp=setting.dims.etp,
        cache=_cache(setting, placements),
    )
    eras = [
        Era(
            since_s=health.since_s,
            plan=dataclasses.replace(work, builder=_builder(setting, health)),
            speed_D=health.speed_D / start.speed_D,
        )
        for health in later
    ]
    return dataclasses.replace(work, later=tuple(eras))


def _cache(setting: Setting, placements: tuple[ExpertPlacement, ...]) -> ExpertCache | None:
    """What devices keep of experts that live elsewhere: the hottest of the planning window, else of the judged steps."""
    memory = setting.scenario.memory
    if memory.expert_cache is None or memory.tier_bandwidth is None:
        return None
    if setting.training:
        raise InputError("memory.expert_cache is for decode and prefill; a training step changes all weights it holds")
    return pin_hottest(
        placements,
        setting.loads(setting.scenario.compare.plan_steps),
        slot_bytes(setting.model, setting.weight_dtype),
        memory.expert_cache,
        memory.tier_bandwidth,
    )


def _builder(setting: Setting, health: Health, ranks: Ranks | None = None) -> CollectiveBuilder:
    """How collectives are built on what is left of the cluster."""
    scenario, kernel, cluster = setting.scenario, setting.kernel, weakened(setting.cluster, health)
    width = setting.model.payload_width
    return CollectiveBuilder(
        cluster=cluster,
        links=build_link_table(cluster, setting.profile.links, kernel, scenario.dispatch.sms),
        kernel=kernel,
        algorithm=_algorithm(setting),
        path_policy=setting.path_policy,
        group_size=setting.dims.ep,
        bytes_per_copy={
            "dispatch": copy_bytes(width, scenario.dispatch.dtype),
            "combine": copy_bytes(width, scenario.combine.dtype),
        },
        detours=setting.detours(health),
        dead_devices=health.dead_devices,
        device_of_rank=ranks,
        stride=setting.dims.etp,
        experts=setting.num_slots,
    )
