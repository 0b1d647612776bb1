"""The manifests for Kubernetes: valid by its schemas, and in agreement with the service, its image and its metrics."""

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import from_environment
from service.telemetry.metrics import Metrics
from tests.serving import ROOT

FOLDER = ROOT / "deploy/kubernetes"
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")
MODELS = os.environ.get("KUBERNETES_MODELS")
"""A folder in which `npm install @kubernetes-models/keda @kubernetes-models/prometheus-operator` was run."""

CHECK = """
import { readFileSync } from "fs";
const manifest = JSON.parse(readFileSync(0));
const { [manifest.kind]: Kind } = await import(process.argv[1]);
new Kind(manifest).validate();
"""
KSERVE = os.environ.get("KSERVE_SDK")
"""A folder in which `pip install --no-deps --target FOLDER kserve` was run."""
PACKAGES = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
}

Manifest = dict[str, Any]


def load(name: str) -> Manifest:
    manifest: Manifest = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return manifest


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge as kustomize does it for what the overlays use: lists of named things are merged by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {key: merged(base.get(key), patch[key]) if key in patch else base[key] for key in {**base, **patch}}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in item for item in base + patch):
        names = {item["name"]: deepcopy(item) for item in base}
        for item in patch:
            names[item["name"]] = merged(names.get(item["name"]), item)
        return [*names.values()]
    return patch


def overlay(name: str) -> list[Manifest]:
    """The manifests of a kustomization, with its resources, components and patches."""
    folder = FOLDER / name
    kustomization = load(f"{name}/kustomization.yaml")
    manifests: list[Manifest] = []
    for resource in kustomization.get("resources", []):
        path = (folder / resource).resolve()
        manifests += overlay(str(path.relative_to(FOLDER))) if path.is_dir() else [yaml.safe_load(path.read_text())]
    for patch in kustomization.get("patches", []):
        content = load(f"{name}/{patch['path']}") if "path" in patch else yaml.safe_load(patch["patch"])
        if name == "volume":
            manifests.append(load("base/deployment.yaml"))
        (place,) = [
            index
            for index, manifest in enumerate(manifests)
            if (manifest["kind"], manifest["metadata"]["name"]) == (content["kind"], content["metadata"]["name"])
        ]
        if content.pop("$patch", None) == "delete":
            del manifests[place]
        else:
            manifests[place] = merged(manifests[place], content)
    return manifests


OVERLAYS = ["cpu", "cuda", "volume", "keda", "monitoring", "kserve"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_manifests_are_valid(name: str) -> None:
    """Kubernetes' own schemas accept each of its kinds, without a key that they do not know."""
    for manifest in overlay(name):
        if manifest["kind"] not in {*PACKAGES, "ServingRuntime", "InferenceService"}:
            kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize("kind", PACKAGES)
def test_custom_resources_are_valid(kind: str) -> None:
    """The schemas of KEDA and of the Prometheus operator accept theirs."""
    if MODELS is None or not shutil.which("node"):
        pytest.skip("KUBERNETES_MODELS names no folder with npm's @kubernetes-models, or node is missing")
    (manifest,) = [yaml.safe_load(path.read_text()) for path in FILES if f"kind: {kind}\n" in path.read_text()]
    for valid in (True, False):
        content = (
            manifest if valid else {**manifest, "spec": {**manifest["spec"], **dict.fromkeys(manifest["spec"], 1)}}
        )
        done = subprocess.run(
            ["node", "--input-type=module", "-e", CHECK, PACKAGES[kind]], cwd=MODELS, input=json.dumps(content),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == valid, done.stderr


def kserve_faults(folder: Path, kind: str, value: Any, place: str = "") -> Iterator[str]:
    """Where a value is not of a kind of KServe's SDK, whose models are generated from KServe's OpenAPI document.

    Kinds that it does not have are Kubernetes' own.
    """
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{place}: expected a list"
            return
        for index, item in enumerate(value):
            yield from kserve_faults(folder, listed[1], item, f"{place}[{index}]")
        return
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()
    files = [
        path for path in (folder / "kserve/models").glob("*.py") if path.stem.replace("_", "") == name.replace("_", "")
    ]
    if not files:
        expected = {"str": str, "int": int, "bool": bool}.get(kind)
        if expected and not isinstance(value, expected):
            yield f"{place}: expected {kind}"
        return
    text = files[0].read_text(encoding="utf-8")
    types, names = (
        ast.literal_eval(re.search(rf"{table} = (\{{.*?\}})", text, re.DOTALL)[1])  # type: ignore[index]
        for table in ("openapi_types", "attribute_map")
    )
    kinds = {key: types[attribute] for attribute, key in names.items()}
    if not isinstance(value, dict):
        yield f"{place}: expected {kind}"
        return
    for key, part in value.items():
        if key in kinds:
            yield from kserve_faults(folder, kinds[key], part, f"{place}.{key}")
        else:
            yield f"{place}: {kind} has no {key}"


@pytest.mark.parametrize(
    ("name", "kind"), [("servingruntime", "V1alpha1ServingRuntime"), ("inferenceservice", "V1beta1InferenceService")]
)
def test_kserve_takes_its_manifests(name: str, kind: str) -> None:
    """The models of KServe's SDK have each key; the containers and volumes are valid as those of a pod."""
    manifest = load(f"kserve/{name}.yaml")
    if "containers" in manifest["spec"]:
        spec = {key: manifest["spec"][key] for key in ("containers", "volumes")}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, "1.37", strict=True)
    if KSERVE is None:
        pytest.skip("KSERVE_SDK names no folder with PyPI's kserve")
    assert list(kserve_faults(Path(KSERVE), kind, manifest)) == []
    manifest["spec"]["replica"] = 2
    assert len(list(kserve_faults(Path(KSERVE), kind, manifest))) == 1
    manifest["spec"] = 1
    assert len(list(kserve_faults(Path(KSERVE), kind, manifest))) == 1


def test_the_validation_can_fail() -> None:
    """A misspelt key and a wrong type are refused."""
    for change in ({"replica": 2}, {"replicas": "two"}):
        deployment = load("base/deployment.yaml")
        deployment["spec"] |= change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, "1.37", strict=True)


def containers() -> Iterator[Manifest]:
    """The containers of the Deployments and of KServe's runtime."""
    for name in ("cpu", "cuda", "volume"):
        for manifest in overlay(name):
            if manifest["kind"] == "Deployment":
                yield from manifest["spec"]["template"]["spec"]["containers"]
    yield from load("kserve/servingruntime.yaml")["spec"]["containers"]


def test_containers_have_no_rights() -> None:
    """The root is read-only, /tmp alone is a volume in memory, no privilege is kept, and the user is a number."""
    for container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert writable == ["/tmp"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert "memory" in requests
        assert limits["cpu"] == requests["cpu"], "without a limit the service counts the processors of the node"
    pod = load("base/deployment.yaml")["spec"]["template"]["spec"]
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert pod["securityContext"]["runAsNonRoot"]
    assert load("base/networkpolicy.yaml")["spec"]["egress"] == []


def test_settings_are_those_of_the_service() -> None:
    """Each CONVOKE_ variable is a setting with a valid value, and the drain ends well before the pod is killed."""
    for container in containers():
        values = {item["name"]: item["value"] for item in container["env"] if item["name"].startswith("CONVOKE_")}
        chosen = from_environment(values)
        assert chosen.drain_s == 10
    grace = load("base/deployment.yaml")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= chosen.drain_s + chosen.request_timeout_s + 10


def test_probes_and_ports_are_those_of_the_image() -> None:
    """Probes use /readyz and /livez on the port that the image sets; a slow start has two minutes."""
    port = re.search(r"CONVOKE_PORT=(\d+)", (ROOT / "deploy/container/Containerfile").read_text())
    assert port is not None
    for container in containers():
        assert container["ports"][0]["containerPort"] == int(port[1])
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    startup = load("base/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 120


def rules() -> list[Manifest]:
    groups: list[Manifest] = load("monitoring/prometheusrule.yaml")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_alerts_query_metrics_that_exist() -> None:
    """Also the autoscalers; and labels in a summary are labels of the metric."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    exposed = {family.name + suffix for family in Metrics().families for suffix in suffixes[family.kind]}
    texts = [rule["expr"] for rule in rules()]
    texts += [path.read_text() for path in FILES if "autoscaler" in path.name or "scaledobject" in path.name]
    names = {name for text in texts for name in re.findall(r"\b(?:convoke|process)_[a-z_]+", text)}
    assert {"convoke_utilisation", "convoke_workers_ready"} <= names <= exposed


def test_every_alert_has_a_paragraph_in_the_guide() -> None:
    """docs/alerts.md has a heading for each alert, and for no other."""
    guide = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (Convoke\w+)$", guide, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_selectors_match_the_pods() -> None:
    """Service, budget, policy and monitor select the labels of the pods, and of the Service."""
    labels = load("base/deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert load("base/service.yaml")["spec"]["selector"] == labels
    assert load("base/poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert load("base/networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    assert load("monitoring/servicemonitor.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert load("base/service.yaml")["metadata"]["labels"] == labels


def test_kustomizations_name_all_files() -> None:
    """Each manifest belongs to a kustomization beside it, and each image is the one that `make container` builds."""
    for path in FILES:
        text = (path.parent / "kustomization.yaml").read_text()
        assert path.name in text, path
    assert Path(FOLDER / "base/kustomization.yaml").exists()
    for name in ("cpu", "cuda", "kserve"):
        (image,) = load(f"{name}/kustomization.yaml")["images"]
        assert image["newTag"].endswith("cuda" if name == "cuda" else "cpu")
