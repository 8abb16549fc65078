"""The strict reader: nothing is ignored, everything wrong is named at once."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

import strict_json
from strict_json import ConfigError


class Inner(strict_json.StrictModel):
    learning_rate: float = Field(gt=0)
    steps: int = 1


class Outer(strict_json.StrictModel):
    inner: Inner
    name: str = "x"
    flag: bool = False
    every: bool | Annotated[int, Field(ge=1)] | Literal["selective"] = False


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.json"


def refusal(call, *arguments) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "key given more than once: a"),
        ('{"a": {"b": 1, "b": 2}}', "key given more than once: b"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1,\n "b": }', "line 2, column 7"),
        ("[1]", "must hold one JSON object, not a list"),
        ("[" * 100_000, "nested too deeply"),
        ("", "line 1, column 1"),
    ],
)
def test_bad_json_is_placed(file, text, said):
    file.write_text(text)
    message = refusal(strict_json.read, file)
    assert said in message and str(file) in message


def test_missing_file_names_its_nearest_sibling(file):
    file.write_text("{}")
    assert 'config.json"?' in refusal(strict_json.read, file.with_name("confg.json"))
    assert "no such file" in refusal(strict_json.read, file.parent / "absent" / "x.json")


def test_not_utf8(file):
    file.write_bytes(b'{"a": "\xff"}')
    assert "cannot be read as UTF-8" in refusal(strict_json.read, file)


def test_every_mistake_is_listed():
    wrong = {"inner": {"learning_rte": 1.0, "steps": "3"}, "nme": "y", "flag": 1}
    message = refusal(strict_json.validate, Outer, wrong, "x.json")
    assert message.startswith("x.json:")
    for said in (
        'inner.learning_rte: unknown key "learning_rte". Did you mean "learning_rate"?',
        "inner.learning_rate: this key is required and missing.",
        'inner.steps: Input should be a valid integer (got "3")',
        'nme: unknown key "nme". Did you mean "name"?',
        "flag: Input should be a valid boolean (got 1)",
    ):
        assert said in message


@pytest.mark.parametrize(("wrong", "shown"), [(0, "0"), ("maybe", '"maybe"')])
def test_a_value_of_no_allowed_kind_is_one_mistake(wrong, shown):
    message = refusal(strict_json.validate, Outer, {"inner": {"learning_rate": 1.0}, "every": wrong}, "x.json")
    _, line = message.split("\n")
    assert line.startswith("  every: Input should be a valid boolean, or ")
    assert line.endswith(f"or 'selective' (got {shown}).")


def test_a_key_at_the_wrong_level_is_sent_home():
    wrong = {"inner": {"learning_rate": 1.0}, "steps": 3}
    assert "It belongs at inner.steps." in refusal(strict_json.validate, Outer, wrong, "x.json")


def test_whole_numbers_serve_as_floats_but_nothing_else_is_coerced():
    assert strict_json.validate(Outer, {"inner": {"learning_rate": 1}}, "x").inner.learning_rate == 1.0
    assert "inner.steps" in refusal(strict_json.validate, Outer, {"inner": {"learning_rate": 1.0, "steps": 1.5}}, "x")


def test_overrides():
    config = {"inner": {"learning_rate": 1.0}}
    changed = strict_json.override(config, ["inner.steps=5", "name=a=b", "flag=true", "new.deep.key=[1, 2]"])
    assert changed == {
        "inner": {"learning_rate": 1.0, "steps": 5},
        "name": "a=b",
        "flag": True,
        "new": {"deep": {"key": [1, 2]}},
    }
    assert config == {"inner": {"learning_rate": 1.0}}


@pytest.mark.parametrize("wrong", ["inner.steps", "=5", "inner..steps=5", "name.first=5"])
def test_bad_overrides(wrong):
    assert f"--set {wrong}" in refusal(strict_json.override, {"name": "x", "inner": {}}, [wrong])
