"""docs/running.md and the Kubernetes manifest say what can be run."""

import dataclasses
import re

import jsonschema
import yaml
from conftest import ROOT

from bridge_ebm.settings import TrainSettings

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}


def closed(properties, *required):
    """An object of these properties and no others: kubectl refuses fields that it does not know."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def many(item):
    return {"type": "array", "items": item, "minItems": 1}


# The part of the API's schema (core/v1 and batch/v1) that the manifest uses.
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
SERVICE = closed(
    {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "Service"},
        "metadata": closed({"name": NAME}, "name"),
        "spec": closed(
            {
                "clusterIP": {"const": "None"},
                "publishNotReadyAddresses": {"type": "boolean"},
                "selector": LABELS,
                "ports": many(closed({"name": NAME, "port": PORT}, "port")),
            },
            "clusterIP",
            "selector",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(m|Mi|Gi|Ti)?$"}}
FIELD = closed({"fieldRef": closed({"fieldPath": {"type": "string"}}, "fieldPath")}, "fieldRef")
CONTAINER = closed(
    {
        "name": NAME,
        "image": {"type": "string"},
        "workingDir": {"type": "string", "pattern": "^/"},
        "command": many({"type": "string"}),
        "args": many({"type": "string"}),
        "env": many(closed({"name": {"type": "string", "pattern": "^[A-Z_]+$"}, "valueFrom": FIELD}, "name")),
        "ports": many(closed({"containerPort": PORT}, "containerPort")),
        "resources": closed({"requests": QUANTITIES, "limits": QUANTITIES}),
        "volumeMounts": many(closed({"name": NAME, "mountPath": {"type": "string"}}, "name", "mountPath")),
    },
    "name",
    "image",
)
CLAIM = closed({"claimName": NAME}, "claimName")
POD = closed(
    {
        "subdomain": NAME,
        "restartPolicy": {"enum": ["Never", "OnFailure"]},  # all that a Job allows
        "containers": many(CONTAINER),
        "volumes": many(closed({"name": NAME, "persistentVolumeClaim": CLAIM}, "name")),
    },
    "containers",
    "restartPolicy",
)
COUNT = {"type": "integer", "minimum": 1}
JOB = closed(
    {
        "apiVersion": {"const": "batch/v1"},
        "kind": {"const": "Job"},
        "metadata": closed({"name": NAME}, "name"),
        "spec": closed(
            {
                "completionMode": {"const": "Indexed"},
                "completions": COUNT,
                "parallelism": COUNT,
                "backoffLimit": {"type": "integer", "minimum": 0},
                "template": closed({"metadata": closed({"labels": LABELS}, "labels"), "spec": POD}, "spec"),
            },
            "completions",
            "template",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)
FLAGS = {field.name for field in dataclasses.fields(TrainSettings)} | {
    *("flagfile", "workdir", "max_updates", "log_every", "coordinator", "num_processes", "process_id")
}


def test_the_kubernetes_manifest_is_valid_and_its_pods_find_each_other():
    service, job = yaml.safe_load_all((ROOT / "docs" / "kubernetes.yaml").read_text())
    jsonschema.validate(service, SERVICE)
    jsonschema.validate(job, JOB)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod["subdomain"] == service["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    given = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert given.keys() <= FLAGS
    assert spec["completions"] == spec["parallelism"] == int(given["num_processes"])
    # An indexed job's pods are called NAME-0, NAME-1 ... under the service of their subdomain.
    host, port = given["coordinator"].split(":")
    assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert int(port) == service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
    (number,) = container["env"]
    assert given["process_id"] == f"$({number['name']})"
    assert "batch.kubernetes.io/job-completion-index" in number["valueFrom"]["fieldRef"]["fieldPath"]
    assert given["workdir"].startswith(container["volumeMounts"][0]["mountPath"] + "/")
    values = {name: int(given[name]) for name in ("batch_size", "buffer_size")}
    TrainSettings(replay=given["replay"], **values)
    gpus = spec["completions"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert values["batch_size"] % gpus == 0


def test_the_page_names_files_and_flags_that_exist():
    text = (ROOT / "docs" / "running.md").read_text()
    for path in re.findall(r"(?:experiments|docs)/[\w/]+\.\w+", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / "docs" / path).exists(), path
    # Those of Slurm's and of Google's own commands stand in their code blocks.
    theirs = {"nodes", "ntasks", "gpus", "cpus", "signal", "requeue", "worker", "command", "out", "num"}
    assert set(re.findall(r"--([a-z_]+)", text)) <= FLAGS | theirs
