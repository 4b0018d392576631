"""Kubernetes: a JobSet, a LeaderWorkerSet and a Kueue Job whose pods are the nodes of the plan, one pod a node."""

from typing import Any

import yaml

from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.hosts import RankTable, rank_table

_IMAGE = "IMAGE"
_DOMAIN = "network.topology.nvidia.com/leaf"


def export(request: ExportRequest) -> Export:
    """`out` is the JobSet. Options: hosts (pins pod i to host i), name, image, domain (node label), gpu (resource)."""
    table = rank_table(request)
    settings = {
        "name": request.option("name", "moe"),
        "image": request.option("image", _IMAGE),
        "domain": request.option("domain", _DOMAIN),
        "gpu": request.option("gpu", "nvidia.com/gpu"),
    }
    pinned = bool(request.option("hosts"))
    files = {
        request.out.name: [_jobset(table, settings, pinned)],
        request.beside(".lws.yaml"): [_leader_worker_set(table, settings)],
        request.beside(".kueue.yaml"): _kueue(table, settings),
    }
    contents = {name: yaml.safe_dump_all(parts, sort_keys=False).encode() for name, parts in files.items()}
    nodes = len(table.hosts)
    notes = ["the node rank of a pod is its JOB_COMPLETION_INDEX, or LWS_WORKER_INDEX under a LeaderWorkerSet"]
    if not pinned:
        notes.append(f"pods are kept in one {settings['domain']}, not pinned: hosts=LIST pins pod i to host i")
    return Export(
        files=contents,
        launch_flags=(f"--nnodes={nodes}", f"--nproc-per-node={table.devices_per_host}", "--node-rank=$NODE_RANK"),
        checks=_checks(contents, table, pinned),
        notes=tuple(notes),
    )


def _pod(table: RankTable, settings: dict[str, str], label: str) -> dict[str, Any]:
    """A pod that takes a whole node and reads its node rank from one of its labels."""
    node_rank = {"name": "NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}
    container = {
        "name": "worker",
        "image": settings["image"],
        "env": [node_rank],
        "resources": {"limits": {settings["gpu"]: table.devices_per_host}},
    }
    return {"restartPolicy": "Never", "containers": [container]}


def _job(table: RankTable, settings: dict[str, str], pods: int, label: str) -> dict[str, Any]:
    return {
        "parallelism": pods,
        "completions": pods,
        "completionMode": "Indexed",
        "template": {"spec": _pod(table, settings, label)},
    }


def _jobset(table: RankTable, settings: dict[str, str], pinned: bool) -> dict[str, Any]:
    """One indexed job over all nodes; where hosts are known, one job of one pod for each of them, pinned to it."""
    metadata: dict[str, Any] = {"name": settings["name"]}
    nodes = len(table.hosts)
    if pinned:
        jobs = [_pinned_job(table, settings, node) for node in range(nodes)]
    else:
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": settings["domain"]}
        job = _job(table, settings, nodes, "batch.kubernetes.io/job-completion-index")
        jobs = [{"name": "nodes", "replicas": 1, "template": {"spec": job}}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {"replicatedJobs": jobs},
    }


def _pinned_job(table: RankTable, settings: dict[str, str], node: int) -> dict[str, Any]:
    job = _job(table, settings, 1, "jobset.sigs.k8s.io/job-global-index")
    job["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": table.hosts[node]}
    return {"name": f"node-{node}", "replicas": 1, "template": {"spec": job}}


def _leader_worker_set(table: RankTable, settings: dict[str, str]) -> dict[str, Any]:
    pod = _pod(table, settings, "leaderworkerset.sigs.k8s.io/worker-index")
    del pod["restartPolicy"]  # a set's pods always restart
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {
            "name": settings["name"],
            "annotations": {"leaderworkerset.sigs.k8s.io/exclusive-topology": settings["domain"]},
        },
        "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": len(table.hosts), "workerTemplate": {"spec": pod}}},
    }


def _kueue(table: RankTable, settings: dict[str, str]) -> list[dict[str, Any]]:
    levels = list(dict.fromkeys([settings["domain"], "kubernetes.io/hostname"]))
    topology = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Topology",
        "metadata": {"name": "fabric"},
        "spec": {"levels": [{"nodeLabel": label} for label in levels]},
    }
    job = _job(table, settings, len(table.hosts), "batch.kubernetes.io/job-completion-index")
    job["template"]["metadata"] = {"annotations": {"kueue.x-k8s.io/podset-required-topology": settings["domain"]}}
    labels = {"kueue.x-k8s.io/queue-name": "queue"}
    return [
        topology,
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": settings["name"], "labels": labels},
            "spec": job,
        },
    ]


def _checks(contents: dict[str, bytes], table: RankTable, pinned: bool) -> tuple[Check, ...]:
    jobset, lws, kueue = (list(yaml.safe_load_all(content)) for content in contents.values())
    jobs = [job["template"]["spec"] for job in jobset[0]["spec"]["replicatedJobs"]]
    selected = [job["template"]["spec"].get("nodeSelector", {}).get("kubernetes.io/hostname") for job in jobs]
    annotations = kueue[1]["spec"]["template"]["metadata"]["annotations"]
    return (
        Check("JobSet: one pod per node", sum(job["completions"] for job in jobs) == len(table.hosts)),
        Check("JobSet: pod i on host i", not pinned or selected == list(table.hosts)),
        Check("LeaderWorkerSet: one pod per node", lws[0]["spec"]["leaderWorkerTemplate"]["size"] == len(table.hosts)),
        Check("Kueue: one pod per node", kueue[1]["spec"]["completions"] == len(table.hosts)),
        Check("Kueue: one topology annotation", sum("topology" in key for key in annotations) == 1),
    )
