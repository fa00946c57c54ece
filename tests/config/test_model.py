"""The models themselves: documented, frozen, with a schema that agrees with them."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from config.model import Config, Network, Trunk, schema
from config.reference import markdown
from config.values import Model, keys_of


def models(root: type[Model] = Model) -> list[type[Model]]:
    return [sub for each in root.__subclasses__() for sub in (each, *models(each))]


@pytest.mark.parametrize("model", models(), ids=lambda model: str(model.__name__))
def test_every_key_has_a_description(model: type[Model]) -> None:
    assert model.__doc__
    for name, info in model.model_fields.items():
        assert info.description, name


@pytest.mark.parametrize("name", list(Config.model_fields["timers"].get_default().__class__.model_fields))
def test_every_timer_names_its_unit_and_has_a_default(name: str) -> None:
    assert re.search(r"_(s|ms)$", name)
    assert getattr(Config.model_fields["timers"].get_default(), name) >= 0


def test_models_are_frozen() -> None:
    network = Network(name="public", address="203.0.113.10")
    with pytest.raises(ValidationError):
        network.nat = "far-end"


def test_the_reference_names_every_key() -> None:
    text = markdown()
    for model in models():
        if model.__name__ in {"Listen", "PortRange", "SipServer", "StunServer", "TurnServer", "Config"}:
            continue
        for key in keys_of(model):
            assert f"| `{key}` |" in text, key
    assert "| `trying_timeout_s` | `4` |" in text
    assert "| `servers` | required |" in text


def test_the_schema_knows_the_short_forms_and_hides_what_is_no_key() -> None:
    found: dict[str, Any] = schema()
    network, trunk = found["$defs"]["Network"]["properties"], found["$defs"]["Trunk"]["properties"]
    assert "name" not in network and "path" not in found["properties"]
    assert "from" in trunk and "from_" not in trunk
    assert "name" not in found["$defs"]["Network"].get("required", [])
    assert network["listen"]["anyOf"][1]["items"]["type"] == "string"
    assert network["media_ports"]["type"] == "string"
    assert network["stun_servers"]["anyOf"][0]["type"] == "string"
    assert found["$defs"]["Turn"]["properties"]["server"]["type"] == "string"
    assert "StunServer" not in found["$defs"] and "TurnServer" not in found["$defs"]
    assert "register" in trunk and "register_" not in trunk and "learned" not in network
    assert found["$defs"]["Credentials"]["properties"]["password"]["writeOnly"] is True


def test_models_can_be_made_in_code_and_from_their_dump() -> None:
    trunk = Trunk.model_validate(
        {"name": "a", "network": "n", "servers": ["sip:[2001:db8::1]:5080;transport=TCP"]}
    )
    assert (trunk.servers[0].host, trunk.servers[0].port, trunk.servers[0].transport) == (
        "2001:db8::1",
        5080,
        "tcp",
    )
    assert Trunk.model_validate(trunk.model_dump()) == trunk
