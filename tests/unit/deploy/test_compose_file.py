"""The compose file cannot be run by a test; what it says can be held against the services it starts."""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.runtime.settings import settings_table
from stagecue.commands.settings import MODELS, load_model

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
OURS = {"producer": 2, "router": 2, "push": 3, "dgs": 2}
PORTS = {"producer": 8400, "dgs": 8401, "push": 8402, "router": 8404}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def ours(compose: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [each for each in compose["services"].values() if each.get("command") == [role]]


def test_it_runs_every_service_of_the_topology_and_the_three_servers(compose: dict[str, Any]) -> None:
    assert {role: len(ours(compose, role)) for role in OURS} == OURS
    images = {name: each["image"].partition(":")[0] for name, each in compose["services"].items()}
    assert {name: image for name, image in images.items() if image != "stagecue"} == {
        "kafka": "apache/kafka", "redis": "redis", "postgres": "postgres",
    }  # fmt: skip
    pom = (DEPLOY / "kafka" / "pom.xml").read_text()
    tested = re.search(r"<kafka.version>(.*)</kafka.version>", pom)
    assert tested is not None
    assert compose["services"]["kafka"]["image"] == f"apache/kafka:{tested[1]}", "the broker that is tested"


def test_every_variable_of_our_services_is_a_setting(compose: dict[str, Any]) -> None:
    """A misspelt one would be ignored in silence."""
    known = {row[0] for service in MODELS for row in settings_table(load_model(service))}
    for role in OURS:
        for service in ours(compose, role):
            assert set(service.get("environment", {})) <= known


def test_servers_run_on_the_shipped_configuration(compose: dict[str, Any]) -> None:
    """Mounted, not repeated; the broker is told nothing else than its place."""
    kafka, redis = compose["services"]["kafka"], compose["services"]["redis"]
    place = {"LISTENERS", "ADVERTISED_LISTENERS", "CONTROLLER_QUORUM_VOTERS", "LOG_DIRS", "HEAP_OPTS"}
    assert {name.removeprefix("KAFKA_") for name in kafka["environment"]} == place
    for service, file in ((kafka, "kafka/server.properties"), (redis, "redis/redis.conf")):
        source = next(volume for volume in service["volumes"] if volume.startswith("./")).split(":")[0]
        assert source == f"./{file}"
        assert (DEPLOY / source).is_file()
    assert "/etc/redis/redis.conf" in redis["command"]


def test_who_is_waited_for_is_there_and_says_when_it_is_well(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert all("healthcheck" in service for service in services.values())
    needed = {
        "producer": {"kafka", "postgres"},
        "router": {"kafka", "redis", "postgres"},
        "push": {"redis"},
        "dgs": {"redis"},
    }
    for role, needs in needed.items():
        for service in ours(compose, role):
            assert set(service["depends_on"]) == needs
            assert f"127.0.0.1:{PORTS[role]}/readyz" in service["healthcheck"]["test"][-1]
    declared = set(compose["volumes"])
    for service in services.values():
        named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith("./")}
        assert named <= declared


def test_devices_are_told_the_ports_of_every_push_node(compose: dict[str, Any]) -> None:
    published = {port.split(":")[0] for node in ours(compose, "push") for port in node["ports"]}
    assert len(published) == OURS["push"]
    for service in ours(compose, "dgs"):
        told = service["environment"]["DGS_PUSH_URL"].split(",")
        assert {url.split(":")[2].split("/")[0] for url in told} == published


def test_routers_reach_every_node_and_accept_no_address_outside(compose: dict[str, Any]) -> None:
    (subnet,) = compose["networks"]["default"]["ipam"]["config"]
    routers = [each["environment"] for each in ours(compose, "router")]
    allowed = {network for each in routers for network in json.loads(each["ROUTER_ALLOWED_NETWORKS"])}
    assert allowed == {subnet["subnet"]}
    addresses = [node["environment"]["STAGECUE_LINK_HOST"] for node in ours(compose, "push")]
    assert len(set(addresses)) == OURS["push"]
    for node, address in zip(ours(compose, "push"), addresses, strict=True):
        assert node["networks"]["default"]["ipv4_address"] == address
        assert ipaddress.ip_address(address) in ipaddress.ip_network(subnet["subnet"])
        assert ipaddress.ip_address(address) not in ipaddress.ip_network(subnet["ip_range"])
    names = [each["ROUTER_ROUTER_ID"] for each in routers]
    assert len(set(names)) == len(names)


def test_the_image_holds_every_package_and_the_locked_versions() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in project["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert f"COPY {package.removesuffix('*')} {package.removesuffix('*')}\n" in dockerfile
    assert "--require-hashes -r requirements.lock" in dockerfile
