"""The Helm charts: what they make is what Kubernetes, the services and the operators take, and no more is let in."""

import json
import os
import platform
import re
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx2
import pytest

from chat_worker.settings import ChatWorkerSettings
from demo_model.settings import Settings as DemoModelSettings
from deploy.helm import derived
from deploy.local import process
from deploy.local.chart import CHART, KUBERNETES_VERSIONS, STORES, Programs, checked, installed, rendered
from deploy.local.places import Places
from deploy.local.terminal import Failure
from gateway.settings import GatewaySettings
from persistence.settings import PersistenceSettings
from shared.contracts import BYTES_MAX
from shared.db.migrate import MigrateSettings
from shared.ids import uuid7
from shared.messaging import JOBS
from shared.settings import ServiceSettings
from task_tools.settings import TaskToolsSettings
from tests.support.certificates import Authority
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_CASES = ("as it is", "everything", "urls", "little")
_SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "chat-worker": ChatWorkerSettings,
    "persistence": PersistenceSettings,
    "task-tools": TaskToolsSettings,
    "migrate": MigrateSettings,
}
_OF_OPERATORS = {
    *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule", "HTTPRoute"),
    *("Cluster", "RabbitmqCluster", "User", "Permission"),
}
_WORKLOADS = ("Deployment", "StatefulSet", "Job")
_TRACED = ("gateway", "chat-worker", "persistence", "task-tools")
_READ_BY_THE_SDK = ("OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_HEADERS")

Document = dict[str, Any]


@dataclass(frozen=True)
class Objects:
    """What one rendering makes."""

    all: tuple[Document, ...]

    def of(self, *kinds: str) -> list[Document]:
        return [each for each in self.all if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Document:
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    @cached_property
    def pods(self) -> dict[str, Document]:
        """The pods' templates, by component."""
        templates = [workload["spec"]["template"] for workload in self.of(*_WORKLOADS)]
        return {_component(each): each for each in templates}

    def container(self, component: str) -> Document:
        (container,) = self.pods[component]["spec"]["containers"]
        return dict(container)

    def environment(self, component: str) -> dict[str, Document]:
        variables = self.container(component)["env"]
        named = {each["name"]: each for each in variables}
        assert len(named) == len(variables), "a variable is there twice"
        return named


class Charts:
    """Renderings of the charts, each made once."""

    def __init__(self) -> None:
        self.places = Places.of()
        try:
            self.programs: Programs = installed(self.places)
        except Failure as failure:
            if (sys.platform, platform.machine()) == ("linux", "x86_64"):
                raise
            pytest.skip(str(failure))
        self._made: dict[tuple[str, ...], Objects] = {}

    def text(self, chart: Path, *options: str, case: str = "as it is") -> str:
        files = [] if case == "as it is" else [self.places.root / chart / "ci" / f"{case}-values.yaml"]
        return rendered(self.places, self.programs, chart, files, *options)

    def made(self, chart: Path = CHART, *options: str, case: str = "as it is") -> Objects:
        key = (str(chart), *options, case)
        if key not in self._made:
            found = checked(self.places, self.programs, self.text(chart, *options, case=case), versions=())
            assert found.faults == ()
            self._made[key] = Objects(found.documents)
        return self._made[key]

    def values(self, chart: Path) -> Document:
        (found,) = checked(self.places, self.programs, (_ROOT / chart / "values.yaml").read_text(), ()).documents
        return found

    def refusal(self, *options: str, chart: Path = CHART) -> str:
        with pytest.raises(Failure) as caught:
            self.text(chart, *options)
        return str(caught.value)


@pytest.fixture(scope="module")
def charts() -> Charts:
    return Charts()


@pytest.fixture(params=_CASES)
def objects(request: pytest.FixtureRequest, charts: Charts) -> Objects:
    """All ways in which the chart is rendered here, one after the other."""
    return charts.made(case=request.param)


@pytest.fixture
def plain(charts: Charts) -> Objects:
    return charts.made()


@pytest.fixture
def everything(charts: Charts) -> Objects:
    return charts.made(case="everything")


def _component(labelled: Document) -> str:
    return str(labelled["metadata"]["labels"]["app.kubernetes.io/component"])


def _matches(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a label selector, as a policy has them, selects what has `labels`."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


# --- What Kubernetes and the operators take


@pytest.mark.parametrize("case", _CASES)
def test_it_is_what_every_kubernetes_that_it_allows_takes(charts: Charts, case: str) -> None:
    found = checked(charts.places, charts.programs, charts.text(CHART, case=case), KUBERNETES_VERSIONS)

    assert found.faults == ()
    assert {name.partition("/")[0] for name in found.unchecked} <= _OF_OPERATORS
    assert f'kubeVersion: ">={KUBERNETES_VERSIONS[0]}.0-0"' in (_ROOT / CHART / "Chart.yaml").read_text()


def test_the_stores_are_what_kubernetes_takes(charts: Charts) -> None:
    text = charts.text(STORES, "--set", "monitoring.podMonitors=true")
    found = checked(charts.places, charts.programs, text, KUBERNETES_VERSIONS)

    assert found.faults == ()
    assert {name.partition("/")[0] for name in found.unchecked} <= _OF_OPERATORS


def test_the_check_sees_what_is_wrong(charts: Charts, tmp_path: Path) -> None:
    """A control: a field that nobody knows, a text for a number, a key twice, a field that no operator knows."""
    text = charts.text(CHART, case="everything")
    definition = {
        "kind": "CustomResourceDefinition",
        "spec": {
            "group": "keda.sh",
            "names": {"kind": "ScaledObject"},
            "versions": [
                {
                    "name": "v1alpha1",
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "apiVersion": {},
                                "kind": {},
                                "spec": {"type": "object", "properties": {"triggers": {"type": "array"}}},
                            },
                        }
                    },
                }
            ],
        },
    }
    (tmp_path / "keda.yaml").write_text(json.dumps(definition))
    spoiled = text.replace("restartPolicy: Never", "restartPolicys: Never", 1)
    spoiled = spoiled.replace("containerPort: 8082", "containerPort: '8082'", 1)

    faults = checked(charts.places, charts.programs, spoiled, ("1.37",), tmp_path).faults
    twice = checked(
        charts.places,
        charts.programs,
        text.replace("restartPolicy:", "command: []\n      restartPolicy: Never\n      restartPolicy:", 1),
        ("1.37",),
    ).faults

    assert any(fault.startswith("Job/") and "restartPolicys" in fault for fault in faults)
    assert any(fault.startswith("StatefulSet/") and "8082" in fault for fault in faults)
    assert any(fault.startswith("ScaledObject/") and "pollingInterval" in fault for fault in faults)
    assert any("twice" in fault for fault in twice)


@pytest.mark.skipif("CHART_CRDS" not in os.environ, reason="CHART_CRDS names no folder of CustomResourceDefinitions")
@pytest.mark.parametrize("case", _CASES)
def test_resources_of_operators_are_what_their_definitions_say(charts: Charts, case: str) -> None:
    folder = Path(os.environ["CHART_CRDS"])
    texts = [charts.text(CHART, case=case), charts.text(STORES, "--set", "monitoring.podMonitors=true")]

    for text in texts:
        found = checked(charts.places, charts.programs, text, KUBERNETES_VERSIONS, folder)
        assert found.faults == ()
        assert found.unchecked == ()


# --- Pods


def test_every_container_is_without_rights(objects: Objects) -> None:
    for component, pod in objects.pods.items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a service called gateway would set GATEWAY_PORT"
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        assert objects.container(component)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_the_user_is_that_of_the_images(plain: Objects) -> None:
    for component, pod in plain.pods.items():
        service = "persistence" if component == "migrate" else component
        ids = re.findall(r"--uid (\d+)", (_ROOT / service / "Dockerfile").read_text())

        assert [int(each) for each in ids] == [pod["spec"]["securityContext"]["runAsUser"]]


def test_every_container_asks_for_what_it_uses_and_has_a_limit(objects: Objects) -> None:
    for component in objects.pods:
        resources = objects.container(component)["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        assert _mebibytes(resources["limits"]["memory"]) > _mebibytes(resources["requests"]["memory"])


def _mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


def test_images_are_of_the_charts_version_unless_told_otherwise(plain: Objects, everything: Objects) -> None:
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["version"]
    for component in plain.pods:
        service = "persistence" if component == "migrate" else component
        assert plain.container(component)["image"] == f"parley-{service}:{version}"
        assert (_ROOT / service / "Dockerfile").exists()
    assert everything.container("gateway")["image"] == f"registry.example/team/parley-gateway:{version}"
    for chart in (CHART, STORES):
        assert f"\nversion: {version}\n" in (_ROOT / chart / "Chart.yaml").read_text()


def test_every_service_is_asked_on_a_port_of_its_own_settings(objects: Objects) -> None:
    for component in set(objects.pods) - {"migrate"}:
        container = objects.container(component)
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        variables = objects.environment(component)
        prefix = component.replace("-", "_").upper()
        of_settings = {f"{prefix}_PORT", f"{prefix}_METRICS_PORT"} & set(variables)

        assert {int(variables[name]["value"]) for name in of_settings} == set(ports.values())
        assert {variables[name]["value"] for name in variables if name.endswith("_HOST")} == {"0.0.0.0"}  # noqa: S104
        for probe, path in {"startupProbe": "live", "livenessProbe": "live", "readinessProbe": "ready"}.items():
            asked = container[probe]["httpGet"]
            assert asked["path"] == f"/health/{path}"
            assert asked["port"] in ports
            assert container[probe]["timeoutSeconds"] > 3  # a gateway looks for Postgres so long, before it says no


def test_the_gateway_is_probed_where_clients_cannot_take_all_connections(plain: Objects) -> None:
    assert plain.container("gateway")["livenessProbe"]["httpGet"]["port"] == "metrics"


# --- Settings


def _environments(charts: Charts) -> Iterator[tuple[str, dict[str, Document]]]:
    for case in _CASES:
        objects = charts.made(case=case)
        for component in objects.pods:
            yield component, objects.environment(component)


def test_every_variable_is_one_that_the_service_reads(charts: Charts) -> None:
    """Or one that its own URL is put together of."""
    read = {
        component: {name for name, _ in derived.variables(settings)} for component, settings in _SETTINGS.items()
    } | {"demo-model": derived.variables_by_service()["demoModel"]}
    for component, environment in _environments(charts):
        texts = " ".join(each.get("value", "") for each in environment.values())
        parts = set(re.findall(r"\$\(([A-Z_]+)\)", texts))
        of_tool_servers = {"GITHUB_TOKEN"} if component == "chat-worker" else set()
        of_the_sdk = set(_READ_BY_THE_SDK) if component in _TRACED else set()

        assert set(environment) - parts - of_tool_servers - of_the_sdk <= read[component]


def test_a_part_of_a_url_is_there_before_the_url(charts: Charts) -> None:
    for _, environment in _environments(charts):
        names = list(environment)
        for place, name in enumerate(names):
            parts = re.findall(r"\$\(([A-Z_]+)\)", environment[name].get("value", ""))
            assert set(parts) <= set(names[:place])


def test_what_has_a_value_of_its_own_is_known_to_be_set_by_the_chart(charts: Charts) -> None:
    mentioned = set(derived.settable()["gateway"] + derived.settable()["chatWorker"])
    mentioned |= set(derived.settable()["persistence"] + derived.settable()["taskTools"])
    found = {
        name
        for component, environment in _environments(charts)
        if component != "migrate"
        for name, each in environment.items()
        if "value" in each
        and not name.endswith(("_DATABASE_URL", "_RABBITMQ_URL"))
        and name not in {*mentioned, *_READ_BY_THE_SDK}
    }

    assert found == derived.SET_BY_CHART


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


def test_the_services_take_their_settings(
    objects: Objects, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the profile of production, which refuses what is weak; Secrets are made up."""
    for component, settings in _SETTINGS.items():
        if component not in objects.pods:
            continue
        with monkeypatch.context() as patched:
            for name, _ in derived.variables(settings):
                patched.delenv(name, raising=False)
            for name, value in _filled(objects.environment(component), authority).items():
                patched.setenv(name, value)
            read = settings()

        assert read.profile == "production"
        assert "$(" not in repr(read.model_dump(mode="python"))


def _filled(environment: Mapping[str, Document], authority: Authority) -> dict[str, str]:
    """The variables as a container would have them."""
    made: dict[str, str] = {}
    for name, each in environment.items():
        if "value" in each:
            made[name] = re.sub(r"\$\(([A-Z_]+)\)", lambda part: made[part[1]], each["value"])
        elif name.endswith("_URL"):
            scheme = "amqp" if "RABBITMQ" in name else "postgresql"
            made[name] = f"{scheme}://user:0123456789@server.example/base"
        else:
            made[name] = '["' + "0123456789abcdef" * 4 + '"]' if name.endswith("_SECRETS") else "0123456789abcdef" * 4
    if "TLS_CA_FILE" in made:
        made["TLS_CA_FILE"] = str(authority.file)
    return made


def test_the_demo_model_takes_its_settings(plain: Objects) -> None:
    environment = {name: each["value"] for name, each in plain.environment("demo-model").items()}

    assert DemoModelSettings.from_environment(environment).port == 8091


def test_what_must_agree_is_said_once(charts: Charts) -> None:
    objects = charts.made(CHART, "--set", "partitionCount=7,model.baseUrl=http://m.example/v1,model.name=m")

    def values(name: str) -> dict[str, object]:
        found = {component: objects.environment(component).get(name) for component in objects.pods}
        return {component: each.get("value") for component, each in found.items() if each is not None}

    assert values("JOURNAL_PARTITION_COUNT") == {"gateway": "7", "chat-worker": "7", "persistence": "7"}
    assert values("MODEL") == {"gateway": "m", "chat-worker": "m"}
    assert values("OPENAI_BASE_URL") == {"gateway": "http://m.example/v1", "chat-worker": "http://m.example/v1"}
    worker, tools = objects.environment("chat-worker"), objects.environment("task-tools")
    assert worker["TOOL_TOKEN_SECRET"] == tools["TOOL_TOKEN_SECRET"]
    assert worker["TASK_TOOLS_URL"]["value"] == "http://parley-task-tools:8090/mcp"
    assert json.loads(tools["TASK_TOOLS_ALLOWED_HOSTS"]["value"]) == ["parley-task-tools:*"]
    assert objects.one("Service", "parley-task-tools")["spec"]["ports"][0]["port"] == 8090


def test_numbers_lists_and_texts_arrive_as_they_are_read(everything: Objects) -> None:
    gateway = {name: each.get("value") for name, each in everything.environment("gateway").items()}

    assert gateway["GATEWAY_LARGE_BODY_BYTES_MAX"] == "12582912"
    assert gateway["GATEWAY_STREAMS_MAX"] == "8000"
    assert gateway["GATEWAY_ALLOWED_ORIGINS"] == '["https://app.example"]'
    assert gateway["GATEWAY_COMPLETIONS_ENABLED"] == "false"
    assert gateway["MODEL_INPUTS"] == "text,image"


# --- Secrets


def test_no_service_sees_the_secrets_of_another(charts: Charts) -> None:
    prefixes = {
        "gateway": "GATEWAY",
        "chat-worker": "CHAT_WORKER",
        "persistence": "PERSISTENCE",
        "task-tools": "TASK_TOOLS",
    }
    own = {
        "gateway": {"JWT_SECRET", "JWT_PREVIOUS_SECRETS", "SESSION_SECRET", "OPENAI_API_KEY"},
        "chat-worker": {"TOOL_TOKEN_SECRET", "OPENAI_API_KEY", "GITHUB_TOKEN"},
        "persistence": {"PERSISTENCE_WEBHOOK_SECRET"},
        "task-tools": {"TOOL_TOKEN_SECRET", "TOOL_TOKEN_PREVIOUS_SECRETS"},
        "demo-model": set[str](),
    }
    for component, environment in _environments(charts):
        secret = {name for name, each in environment.items() if "valueFrom" in each}
        if component in _TRACED:
            secret.discard("OTEL_EXPORTER_OTLP_HEADERS")
        if component == "migrate":
            of_migration = rf"(({'|'.join(prefixes.values())})_)?DATABASE_(URL|PASSWORD|USER)"
            assert all(re.fullmatch(of_migration, name) for name in secret)
            continue
        connections = rf"{prefixes.get(component)}_(DATABASE|RABBITMQ)_(URL|PASSWORD|USER)"
        assert {name for name in secret if not re.fullmatch(connections, name)} <= own[component]


def test_a_gateway_that_asks_no_model_neither_has_its_key_nor_a_way_to_it(charts: Charts) -> None:
    objects = charts.made(CHART, "--set", "gateway.settings.GATEWAY_COMPLETIONS_ENABLED=false")

    assert "OPENAI_API_KEY" not in objects.environment("gateway")
    assert "OPENAI_API_KEY" in objects.environment("chat-worker")
    assert Way("gateway", "to", "demo-model", 8091) not in _ways(objects)
    assert Way("chat-worker", "to", "demo-model", 8091) in _ways(objects)


def test_only_the_migration_is_the_owner(charts: Charts) -> None:
    owners = {component for component, environment in _environments(charts) if "DATABASE_URL" in environment}

    assert owners == {"migrate"}


def test_of_the_clusters_authority_the_certificate_alone_is_mounted(plain: Objects) -> None:
    for component in set(plain.pods) - {"demo-model"}:
        volumes = {each["name"]: each for each in plain.pods[component]["spec"]["volumes"]}
        assert volumes["postgres-ca"]["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
        environment = plain.environment(component)
        urls = [each["value"] for name, each in environment.items() if name.endswith("DATABASE_URL")]
        mounts = {each["mountPath"] for each in plain.container(component)["volumeMounts"]}
        assert urls
        assert all(url.endswith("?sslmode=verify-full&sslrootcert=/etc/parley/postgres/ca.crt") for url in urls)
        assert "/etc/parley/postgres" in mounts


def test_every_mount_has_its_volume(objects: Objects) -> None:
    for component, pod in objects.pods.items():
        mounts = {each["name"] for each in objects.container(component)["volumeMounts"]}
        assert mounts == {each["name"] for each in pod["spec"]["volumes"]}


# --- What belongs together


def test_what_selects_pods_selects_those_of_one_service(objects: Objects) -> None:
    pods = {component: pod["metadata"]["labels"] for component, pod in objects.pods.items()}

    def selected(selector: Document) -> set[str]:
        return {component for component, labels in pods.items() if _matches(selector, labels)}

    for workload in objects.of("Deployment", "StatefulSet"):
        assert selected(workload["spec"]["selector"]) == {_component(workload)}
        for spread in workload["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert selected(spread["labelSelector"]) == {_component(workload)}
    for each in objects.of("PodDisruptionBudget", "PodMonitor"):
        assert selected(each["spec"]["selector"]) == {_component(each)}
    for service in objects.of("Service"):
        assert selected({"matchLabels": service["spec"]["selector"]}) == {_component(service)}
        named = {port["name"] for port in objects.container(_component(service))["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    for monitor in objects.of("PodMonitor"):
        named = {port["name"] for port in objects.container(_component(monitor))["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= named


def test_what_scales_scales_something_that_says_no_number_itself(objects: Objects) -> None:
    scaled = set()
    for scaler in objects.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in objects.one(target["kind"], target["name"])["spec"]
        assert target["name"] not in scaled, "two would pull at it"
        scaled.add(target["name"])
    for deployment in objects.of("Deployment"):
        assert ("replicas" in deployment["spec"]) is (deployment["metadata"]["name"] not in scaled)


def test_every_service_that_may_be_many_keeps_all_but_one_of_them(objects: Objects) -> None:
    budgets = {_component(each): each["spec"] for each in objects.of("PodDisruptionBudget")}

    assert set(budgets) == {"gateway", "chat-worker", "persistence", "task-tools"}
    assert {budget["maxUnavailable"] for budget in budgets.values()} == {1}


def test_workers_are_scaled_by_the_queues_length_and_by_the_age_of_the_oldest_job(everything: Objects) -> None:
    scaler = everything.one("ScaledObject", "parley-chat-worker")["spec"]
    length, age = (trigger["metadata"] for trigger in scaler["triggers"])

    assert scaler["minReplicaCount"] == 0
    assert length["queueName"] == JOBS
    # Over AMQP only waiting messages are told: all workers would look idle as soon as they have taken all of them.
    assert (length["protocol"], length.get("excludeUnacknowledged")) == ("http", None)
    assert length["host"] == "http://parley-rabbitmq.chat.svc:15672/"
    assert int(length["value"]) < int(everything.environment("chat-worker")["CHAT_WORKER_CONCURRENCY"]["value"])
    assert age["url"] == "http://parley-persistence.chat.svc:8082/metrics"
    assert f"`{age['valueLocation']}` | gauge | |" in (_ROOT / "docs" / "metrics.md").read_text()
    named = scaler["triggers"][0]["authenticationRef"]["name"]
    assert everything.one("TriggerAuthentication", named)["spec"]["secretTargetRef"]


@pytest.mark.skipif("RABBITMQ_MANAGEMENT_URL" not in os.environ, reason="this RabbitMQ has no management API")
async def test_the_scalers_user_sees_waiting_and_running_jobs_and_no_more(charts: Charts, rabbitmq_url: str) -> None:
    """With the tag and the rights that the stores chart gives it."""
    stores = charts.made(STORES)
    tags = stores.one("User", "parley-rabbitmq-scaler")["spec"]["tags"]
    rights = stores.one("Permission", "parley-rabbitmq-scaler")["spec"]["permissions"]
    vhost, name = urlsplit(rabbitmq_url).path.removeprefix("/"), f"scaler-{uuid7().hex}"
    management = f"{os.environ['RABBITMQ_MANAGEMENT_URL']}/api"
    async with (
        httpx2.AsyncClient(base_url=management, timeout=30) as administrator,
        await aio_pika.connect(rabbitmq_url) as connection,
    ):
        new = {"password": "scaler", "tags": ",".join(tags)}
        (await administrator.put(f"/users/{name}", json=new)).raise_for_status()
        (await administrator.put(f"/permissions/{vhost}/{name}", json=rights)).raise_for_status()
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue(JOBS)
        for _ in range(3):
            await channel.default_exchange.publish(aio_pika.Message(b"{}"), JOBS)
        held = await queue.get(timeout=10)
        assert held is not None
        without_user = urlsplit(management)._replace(netloc=urlsplit(management).netloc.rpartition("@")[2]).geturl()
        async with httpx2.AsyncClient(base_url=without_user, auth=(name, "scaler"), timeout=30) as scaler:

            async def sees_all_three() -> bool:
                told = (await scaler.get(f"/queues/{vhost}/{JOBS}")).raise_for_status().json()
                return (told.get("messages"), told.get("messages_ready")) == (3, 2)

            await wait_until(sees_all_three, seconds=30)  # the management API counts every few seconds
            reading = await scaler.post(
                f"/queues/{vhost}/{JOBS}/get", json={"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
            )

        assert reading.is_error
        await held.ack()
        await queue.purge()
        (await administrator.delete(f"/users/{name}")).raise_for_status()


def test_keda_gets_the_management_apis_url_where_there_are_only_urls(charts: Charts) -> None:
    objects = charts.made(case="urls")
    (authentication,) = objects.of("TriggerAuthentication")
    length = objects.one("ScaledObject", "parley-chat-worker")["spec"]["triggers"][0]["metadata"]

    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "host", "name": "our-rabbitmq", "key": "SCALER_RABBITMQ_MANAGEMENT_URL"}
    ]
    assert not {"host", "vhostName"} & set(length)


def test_routes_lead_to_the_gateway(everything: Objects) -> None:
    service = everything.one("Service", "parley-gateway")["spec"]["ports"][0]
    ingress, route = everything.one("Ingress", "parley-gateway"), everything.one("HTTPRoute", "parley-gateway")
    (rule,) = ingress["spec"]["rules"]

    assert rule["host"] == "chat.example"
    assert ingress["spec"]["tls"] == [{"hosts": ["chat.example"], "secretName": "chat-tls"}]
    assert rule["http"]["paths"][0]["backend"]["service"] == {
        "name": "parley-gateway",
        "port": {"name": service["name"]},
    }
    assert route["spec"]["hostnames"] == ["chat.example"]
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "parley-gateway", "port": service["port"]}]


def test_no_proxy_cuts_or_gathers_a_stream(charts: Charts) -> None:
    options = "gateway.streamSecondsMax=1000,gateway.foregroundWaitSeconds=300,gateway.largeBodyBytesMax=5000000"
    objects = charts.made(CHART, "--set", options, case="everything")
    annotations = objects.one("Ingress", "parley-gateway")["metadata"]["annotations"]
    (rule,) = objects.one("HTTPRoute", "parley-gateway")["spec"]["rules"]

    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert annotations["nginx.org/proxy-buffering"] == "False"
    silences = [annotations[f"nginx.ingress.kubernetes.io/proxy-{way}-timeout"] for way in ("read", "send")]
    silences += [annotations[f"nginx.org/proxy-{way}-timeout"].removesuffix("s") for way in ("read", "send")]
    assert set(silences) == {"360"}
    sizes = ("nginx.ingress.kubernetes.io/proxy-body-size", "nginx.org/client-max-body-size")
    assert {annotations[name] for name in sizes} == {"5000000"}
    assert rule["timeouts"] == {"request": "1060s", "backendRequest": "1060s"}


# --- Stopping


def test_a_pod_is_given_the_time_that_its_service_takes_to_stop(charts: Charts) -> None:
    options = "gateway.drainSeconds=7,gateway.shutdownSeconds=40,chatWorker.graceSeconds=100,persistence.stopSeconds=25"
    objects = charts.made(CHART, "--set", options)
    graces = {component: pod["spec"].get("terminationGracePeriodSeconds") for component, pod in objects.pods.items()}

    assert objects.environment("gateway")["GATEWAY_SHUTDOWN_SECONDS"]["value"] == "40"
    assert objects.container("gateway")["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert graces["gateway"] >= 7 + 40 + 15
    assert objects.environment("chat-worker")["CHAT_WORKER_GRACE_SECONDS"]["value"] == "100"
    assert graces["chat-worker"] >= 100 + ChatWorkerSettings.model_fields["flush_seconds_max"].default + 15
    assert objects.environment("persistence")["PERSISTENCE_STOP_SECONDS"]["value"] == "25"
    assert graces["persistence"] >= 25 + 25 + 15


def test_persistence_has_names_that_stay_and_no_replica_without_a_partition(charts: Charts, plain: Objects) -> None:
    persistence = plain.one("StatefulSet", "parley-persistence")["spec"]

    assert plain.one("Service", persistence["serviceName"])["spec"]["clusterIP"] == "None"
    assert persistence["updateStrategy"] == {"type": "RollingUpdate"}
    assert "nothing to write" in charts.refusal("--set", "persistence.replicas=5")


# --- The migration


def test_the_migration_comes_before_everything_else_and_may_reach_postgres_by_then(plain: Objects) -> None:
    job = plain.one("Job", "parley-migrate")
    hook = job["metadata"]["annotations"]
    policy = plain.one("NetworkPolicy", "parley-migrate")["metadata"]["annotations"]

    assert hook["helm.sh/hook"] == policy["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(policy["helm.sh/hook-weight"]) < int(hook.get("helm.sh/hook-weight", 0))
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert plain.container("migrate")["command"] == ["python", "-m", "shared.db.migrate"]


def test_the_migration_gives_the_roles_the_passwords_that_the_services_use(plain: Objects) -> None:
    migration = plain.environment("migrate")
    for component, prefix in (("gateway", "GATEWAY"), ("chat-worker", "CHAT_WORKER"), ("task-tools", "TASK_TOOLS")):
        for name in (f"{prefix}_DATABASE_PASSWORD", f"{prefix}_DATABASE_URL"):
            assert migration[name] == plain.environment(component)[name]


# --- Network policies


@dataclass(frozen=True, order=True)
class Way:
    """What a policy lets through: from or to `peer`, by its name here."""

    component: str
    direction: str
    peer: str
    port: int


_PRIVATE = {"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}
_DNS = {Way(component, "to", "kube-system", 53) for component in (*_SETTINGS,)}
_SCRAPED = {
    Way(component, "from", "monitoring", port)
    for component, port in (("gateway", 8079), ("chat-worker", 8081), ("persistence", 8082), ("task-tools", 8090))
}
_POSTGRES = {Way(component, "to", "cnpg.io/cluster=parley-postgres", 5432) for component in _SETTINGS}
_RABBITMQ = {
    Way(component, "to", "app.kubernetes.io/name=parley-rabbitmq", 5672)
    for component in ("gateway", "chat-worker", "persistence")
}
_TOOLS = {Way("chat-worker", "to", "task-tools", 8090), Way("task-tools", "from", "chat-worker", 8090)}


def _ways(objects: Objects) -> set[Way]:
    found = set()
    for policy in objects.of("NetworkPolicy"):
        if policy["metadata"]["name"].endswith("-nothing"):
            continue
        component = _component(policy)
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for kind, direction, peers in (("ingress", "from", "from"), ("egress", "to", "to")):
            for rule in policy["spec"].get(kind, ()):
                names = (
                    [name for peer in rule[peers] for name in _named(objects, peer)] if peers in rule else ["anybody"]
                )
                found |= {Way(component, direction, name, port["port"]) for name in names for port in rule["ports"]}
    return found


def _named(objects: Objects, peer: Document) -> Iterator[str]:
    if block := peer.get("ipBlock"):
        yield "public" if set(block.get("except", ())) & _PRIVATE or block["cidr"] == "::/0" else block["cidr"]
    elif spaces := peer.get("namespaceSelector"):
        yield spaces["matchLabels"]["kubernetes.io/metadata.name"]
    else:
        own = [name for name, pod in objects.pods.items() if _matches(peer["podSelector"], pod["metadata"]["labels"])]
        yield from own or [
            f"{name}={value}"
            for name, value in peer["podSelector"]["matchLabels"].items()
            if value.startswith("parley-")
        ]


def test_nothing_goes_in_or_out_that_is_not_named_here(plain: Objects) -> None:
    demo = {Way(component, "to", "demo-model", 8091) for component in ("gateway", "chat-worker")}
    demo |= {Way("demo-model", "from", component, 8091) for component in ("gateway", "chat-worker")}

    assert _ways(plain) == {
        *(_DNS | _SCRAPED | _POSTGRES | _RABBITMQ | _TOOLS | demo),
        Way("gateway", "from", "anybody", 8080),
        Way("persistence", "to", "public", 443),  # webhooks
    }


def test_what_is_switched_on_is_let_through_and_nothing_else(everything: Objects) -> None:
    assert _ways(everything) == {
        *(_DNS | _SCRAPED | _POSTGRES | _RABBITMQ | _TOOLS),
        Way("gateway", "from", "ingress-nginx", 8080),
        Way("gateway", "to", "public", 443),  # the keys of the identity provider
        Way("gateway", "to", "anybody", 4317),  # as told
        *(Way(component, "to", "monitoring", 4318) for component in _TRACED),
        Way("chat-worker", "to", "public", 443),  # the model, and tool servers
        *(Way("persistence", "to", peer, port) for peer in ("public", "10.1.2.0/24") for port in (443, 8443)),
        Way("persistence", "from", "keda", 8082),
    }


@pytest.mark.parametrize(
    ("options", "peer", "port"),
    [
        (("tracing.endpoint=http://collector:4318",), "chart", 4318),
        (("tracing.endpoint=http://collector.monitoring.svc.cluster.local:4318/otlp",), "monitoring", 4318),
        (("tracing.endpoint=http://collector.monitoring.svc",), "monitoring", 80),
        (("tracing.endpoint=http://10.4.5.6:4318",), "10.4.5.6/32", 4318),
        (("tracing.endpoint=https://otlp.example",), "public", 443),
        (
            ("tracing.endpoint=https://otlp.example", "networkPolicies.tracing[0].ipBlock.cidr=10.9.0.0/16"),
            "10.9.0.0/16",
            443,
        ),
        (
            ("tracing.endpoint=http://collector.monitoring.svc", "networkPolicies.tracingPorts={4318}"),
            "monitoring",
            4318,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_the_collector_of_traces_is_let_through_where_its_address_says(
    charts: Charts, plain: Objects, options: tuple[str, ...], peer: str, port: int
) -> None:
    objects = charts.made(CHART, *(word for option in options for word in ("--set", option)))

    # A name without dots is of a service in the release's own namespace, whose pods are not known by their labels.
    peers = {*objects.pods} if peer == "chart" else {peer}
    assert _ways(objects) - _ways(plain) == {
        Way(component, "to", each, port) for component in _TRACED for each in peers
    } - _ways(plain)


def test_traces_go_from_every_service_that_has_a_part_in_them(charts: Charts, plain: Objects) -> None:
    traced = charts.made(case="everything")

    for component in _TRACED:
        environment = traced.environment(component)
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://collector.monitoring.svc:4318"
        assert environment["OTEL_TRACES_SAMPLER_ARG"]["value"] == "0.1"
        assert environment["OTEL_RESOURCE_ATTRIBUTES"]["value"] == "deployment.environment.name=blue"
        headers = environment["OTEL_EXPORTER_OTLP_HEADERS"]["valueFrom"]["secretKeyRef"]
        assert headers == {"name": "parley", "key": "OTEL_EXPORTER_OTLP_HEADERS", "optional": True}
        assert not [name for name in plain.environment(component) if name.startswith("OTEL_")]


def test_given_servers_are_let_through_where_they_are(charts: Charts) -> None:
    assert _ways(charts.made(case="urls")) == {
        *(_DNS | _SCRAPED | _TOOLS),
        Way("gateway", "from", "anybody", 8080),
        *(Way(component, "to", "10.2.0.0/16", 6432) for component in _SETTINGS),
        *(Way(component, "to", "10.3.0.0/16", 5671) for component in ("gateway", "chat-worker", "persistence")),
        *(Way(component, "to", "models", 8000) for component in ("gateway", "chat-worker")),
        *(Way(component, "to", "public", 443) for component in _TRACED),  # traces
        Way("persistence", "to", "public", 443),
        Way("persistence", "from", "keda", 8082),
    }


@pytest.mark.parametrize("case", ["as it is", "everything", "urls"])
def test_every_pod_is_shut_and_has_one_policy_of_its_own(charts: Charts, case: str) -> None:
    objects = charts.made(case=case)
    shut = objects.one("NetworkPolicy", "parley-nothing")["spec"]
    opened = [each for each in objects.of("NetworkPolicy") if each["metadata"]["name"] != "parley-nothing"]

    assert shut["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(shut)
    for component, pod in objects.pods.items():
        labels = pod["metadata"]["labels"]
        assert _matches(shut["podSelector"], labels)
        assert [_component(each) for each in opened if _matches(each["spec"]["podSelector"], labels)] == [component]


def test_what_one_pod_may_send_the_other_may_receive(objects: Objects) -> None:
    ways = _ways(objects)
    for way in ways:
        if way.direction == "to" and way.peer in objects.pods:
            assert Way(way.peer, "from", way.component, way.port) in ways


def test_the_public_is_without_private_networks(plain: Objects) -> None:
    (rule,) = [
        each
        for each in plain.one("NetworkPolicy", "parley-persistence")["spec"]["egress"]
        if any("ipBlock" in peer for peer in each["to"])
    ]

    blocks = {peer["ipBlock"]["cidr"]: set(peer["ipBlock"]["except"]) for peer in rule["to"]}
    assert blocks == {"0.0.0.0/0": _PRIVATE, "::/0": {"::1/128", "fc00::/7", "fe80::/10"}}


def test_the_document_of_policies_is_true(plain: Objects) -> None:
    """docs/kubernetes.md names each way in a row of its table: who, port."""
    text = (_ROOT / "docs" / "kubernetes.md").read_text().partition("## What each policy lets through")[2]
    rows = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    told = {(row[0].strip("`"), row[1], int(port)) for row in rows for port in re.findall(r"`(\d+)`", row[3])}

    assert {(way.component, way.direction, way.port) for way in _ways(plain)} <= told


# --- The stores


def test_each_service_may_do_on_the_broker_what_it_may_elsewhere(charts: Charts) -> None:
    definitions = json.loads((_ROOT / "deploy" / "rabbitmq" / "definitions.json").read_text())
    users = {"parley_gateway": "gateway", "parley_worker": "chat-worker", "parley_persistence": "persistence"}
    expected = {
        users[each["user"]]: {way: each[way] for way in ("configure", "write", "read")}
        for each in definitions["permissions"]
        if each["user"] in users
    }
    stores = charts.made(STORES)
    found = {
        each["metadata"]["name"].removeprefix("parley-rabbitmq-"): each["spec"] for each in stores.of("Permission")
    }

    assert found.pop("scaler")["permissions"] == {"configure": "^$", "write": "^$", "read": "^$"}
    assert {user: spec["permissions"] for user, spec in found.items()} == expected
    assert {spec["vhost"] for spec in found.values()} == {"/"}
    assert [each["metadata"]["name"] for each in stores.of("User") if "tags" in each["spec"]] == [
        "parley-rabbitmq-scaler"
    ]
    for each in stores.of("Permission"):
        assert stores.one("User", each["spec"]["userReference"]["name"])


def test_services_use_the_users_that_the_stores_have(charts: Charts, everything: Objects) -> None:
    users = {f"{each['metadata']['name']}-user-credentials" for each in charts.made(STORES).of("User")}
    used = {
        each["valueFrom"]["secretKeyRef"]["name"]
        for component in everything.pods
        for name, each in everything.environment(component).items()
        if "RABBITMQ" in name and "valueFrom" in each
    }
    (authentication,) = everything.of("TriggerAuthentication")
    used |= {each["name"] for each in authentication["spec"]["secretTargetRef"]}

    assert used == users


def test_the_broker_takes_messages_as_large_as_ours(charts: Charts) -> None:
    (cluster,) = charts.made(STORES).of("RabbitmqCluster")

    assert f"max_message_size = {BYTES_MAX}\n" in f"{cluster['spec']['rabbitmq']['additionalConfig'].strip()}\n"


def test_the_stores_outlive_their_release(charts: Charts) -> None:
    for each in charts.made(STORES).of("Cluster", "RabbitmqCluster", "User", "Permission"):
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_postgres_has_a_connection_for_every_pool(charts: Charts) -> None:
    values = charts.values(CHART)
    pools = (
        (GatewaySettings, values["gateway"]["autoscaling"]["maxReplicas"] + 1),  # one more while it is updated
        (ChatWorkerSettings, values["chatWorker"]["autoscaling"]["maxReplicas"] + 1),
        (PersistenceSettings, values["persistence"]["replicas"]),
        (TaskToolsSettings, values["taskTools"]["replicas"] + 1),
    )
    connections = sum(settings.model_fields["database_pool_size"].default * count for settings, count in pools)

    assert connections + 20 <= charts.values(STORES)["postgres"]["maxConnections"]  # the operator's and the owner's


# --- Values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("partitionCount=0",), "/partitionCount': minimum"),
        (("gateway.replica=3",), "'replica' not allowed"),
        (("gateway.settings.GATEWAY_STREAM_MAX=1",), "GATEWAY_STREAM_MAX"),
        (("gateway.settings.GATEWAY_PORT=1",), "GATEWAY_PORT"),  # has a value of its own
        (("gateway.settings.JWT_SECRET=x",), "JWT_SECRET"),  # is a secret
        (("logLevel=LOUD",), "/logLevel': value must be one of"),
        (("model.baseUrl=model.example",), "/model/baseUrl': 'model.example' does not match"),
        (("model.baseUrl=http://model.example/v1",), "model.name: say which model"),
        (("persistence.replicas=5",), "persistence.replicas: more than partitionCount"),
        (("chatWorker.autoscaling.minReplicas=0",), "only KEDA starts workers where there are none"),
        (("chatWorker.autoscaling.jobsPerWorker=32",), "jobsPerWorker: must be below concurrency"),
        (("gateway.autoscaling.maxReplicas=1",), "gateway.autoscaling.maxReplicas: must not be below"),
        (("ingress.enabled=true",), "gateway.publicUrl must be given"),
        (("httpRoute.enabled=true", "gateway.publicUrl=https://c.example"), "httpRoute.parentRefs: name the Gateways"),
        (("identityProvider.jwksUrl=https://login.example/jwks",), "jwksUrl needs issuer and audience"),
        (("postgres.cluster=",), "/postgres/cluster"),
        (("tracing.endpoint=collector:4317",), "/tracing/endpoint"),
        (("tracing.part=2",), "/tracing/part"),
        (("tracing.settings.OTEL_EXPORTER_OTLP_HEADERS=key=x",), "OTEL_EXPORTER_OTLP_HEADERS"),  # is a secret
        (("gateway.settings.OTEL_EXPORTER_OTLP_ENDPOINT=http://c",), "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_values_that_make_no_sense_are_refused_in_clear_words(
    charts: Charts, options: tuple[str, ...], message: str
) -> None:
    assert message in charts.refusal(*(word for option in options for word in ("--set", option)))


def test_a_broker_of_two_is_refused(charts: Charts) -> None:
    assert "/rabbitmq/replicas" in charts.refusal("--set", "rabbitmq.replicas=2", chart=STORES)


def test_what_is_made_of_other_files_is_as_they_are() -> None:
    """If it is not: `./dev chart --write`."""
    assert {path: path.read_text() for path in derived.files()} == derived.files()


def test_the_alerts_are_in_the_chart(everything: Objects) -> None:
    (rule,) = everything.of("PrometheusRule")

    assert rule["spec"]["groups"]
    assert "{{ $" not in json.dumps(rule["metadata"])


def test_the_package_holds_the_chart_alone(charts: Charts, tmp_path: Path) -> None:
    command: list[str | Path] = [charts.programs.helm, "package", CHART, "--destination", tmp_path]
    done = process.run(command, environment={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, directory=_ROOT)
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as opened:
        names = {name.removeprefix("parley/") for name in opened.getnames()}

    assert done.returncode == 0
    assert {"Chart.yaml", "values.yaml", "values.schema.json", "templates/gateway.yaml", "files/alerts.yml"} <= names
    assert not [name for name in names if name.startswith(("stores", "ci", "README"))]
