"""Strict conversion of plain mappings into dataclasses: every refusal is one line that names key and file."""

from dataclasses import dataclass
from typing import Literal

import pytest

from peftbench.errors import ConfigurationError
from peftbench.strict import bounded, build, did_you_mean


@dataclass(frozen=True)
class Sheet:
    name: str
    rank: int = bounded(8, at_least=1, at_most=64)
    scale: float = bounded(1.0, above=0)
    steps: int | None = bounded(None, at_least=0)
    mixed: int | str = 1
    operator: Literal["soft", "official"] = "soft"
    sites: tuple[str, ...] = ("query",)
    levels: tuple[float, ...] | None = None
    shape: dict | None = None
    fast: bool = True
    lambda_: float | None = None

    def __post_init__(self):
        if self.name == "forbidden":
            raise ValueError("name: forbidden is not allowed")


def sheet(**values):
    return build(Sheet, {"name": "x", **values}, "sheet", "conf/sheet/a.yaml")


def refusal(**values) -> str:
    with pytest.raises(ConfigurationError) as caught:
        sheet(**values)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith("(conf/sheet/a.yaml)")
    return message


def test_values_arrive_typed_and_defaults_are_filled_in():
    built = sheet(rank=4, scale=2, sites=["key", "value"], levels=[1, 2.5], shape={"deep": {"er": [1]}}, fast=False)
    assert built == Sheet(
        name="x", rank=4, scale=2.0, sites=("key", "value"), levels=(1.0, 2.5), shape={"deep": {"er": [1]}}, fast=False
    )
    assert type(built.scale) is float
    assert [type(level) for level in built.levels] == [float, float]


def test_a_trailing_underscore_is_not_part_of_the_key():
    assert build(Sheet, {"name": "x", "lambda": 0.5}, "sheet", "f").lambda_ == 0.5
    assert "sheet.lambda_: unknown key" in refusal(lambda_=0.5)


def test_an_unknown_key_names_itself_the_nearest_one_and_the_file():
    assert refusal(rnak=4) == "sheet.rnak: unknown key; did you mean sheet.rank? (conf/sheet/a.yaml)"


def test_an_unknown_key_like_no_other_lists_the_known_ones():
    message = refusal(zzzz=4)
    assert message.startswith("sheet.zzzz: unknown key; known keys: name, rank, scale,")
    assert "lambda," not in message
    assert message.endswith("fast, lambda (conf/sheet/a.yaml)")


def test_a_key_that_is_not_text_is_unknown_too():
    with pytest.raises(ConfigurationError, match=r"sheet\.5: unknown key"):
        build(Sheet, {"name": "x", 5: 1}, "sheet", "f")


def test_a_missing_key_without_a_default_is_named():
    with pytest.raises(ConfigurationError, match=r"^sheet\.name: not given, and it has no default \(f\)$"):
        build(Sheet, {"rank": 4}, "sheet", "f")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("name", 3, "3 is not text"),
        ("name", None, "None is not text"),
        ("rank", "8", "'8' is not a whole number"),
        ("rank", 8.0, "8.0 is not a whole number"),
        ("rank", True, "True is not a whole number"),
        ("rank", None, "None is not a whole number"),
        ("rank", [8], "[8] is not a whole number"),
        ("scale", "1e-3", "'1e-3' is not a number"),
        ("scale", False, "False is not a number"),
        ("scale", None, "None is not a number"),
        ("steps", 1.5, "1.5 is not a whole number"),
        ("steps", True, "True is not a whole number"),
        ("mixed", 1.5, "1.5 is not a whole number or text"),
        ("mixed", None, "None is not a whole number or text"),
        ("sites", "query", "'query' is not a list of text"),
        ("sites", None, "None is not a list of text"),
        ("levels", 3, "3 is not a list of a number"),
        ("shape", [1], "[1] is not a mapping"),
        ("fast", 1, "1 is not true or false"),
        ("fast", "yes", "'yes' is not true or false"),
    ],
)
def test_a_wrong_type_names_the_key_and_what_it_wants(key, value, wanted):
    assert refusal(**{key: value}).startswith(f"sheet.{key}: {wanted} (")


@pytest.mark.parametrize(
    ("key", "value", "place"), [("sites", ["query", 3], "sites[1]: 3 is not text"), ("levels", ["a"], "levels[0]: 'a'")]
)
def test_a_wrong_item_of_a_list_is_named_by_its_place(key, value, place):
    assert refusal(**{key: value}).startswith(f"sheet.{place}")


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("rank", 0, "0 is too small, at least 1"),
        ("rank", 65, "65 is too large, at most 64"),
        ("scale", 0, "0.0 is too small, it must be above 0"),
        ("scale", -1.5, "-1.5 is too small, it must be above 0"),
        ("steps", -1, "-1 is too small, at least 0"),
    ],
)
def test_a_value_out_of_range_names_the_limit(key, value, limit):
    assert refusal(**{key: value}).startswith(f"sheet.{key}: {limit} (")


def test_limits_themselves_are_within_the_range_and_null_is_exempt():
    built = sheet(rank=1, steps=0, scale=1e-300)
    assert (built.rank, built.steps, built.scale) == (1, 0, 1e-300)
    assert sheet(rank=64, steps=None).steps is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400, -(10**400)])
def test_numbers_must_be_finite(value):
    assert "is not a finite number" in refusal(scale=value)
    assert "sheet.levels[1]" in refusal(levels=[1.0, value])


def test_a_literal_takes_its_words_only():
    assert sheet(operator="official").operator == "official"
    assert refusal(operator="oficial") == (
        "sheet.operator: 'oficial' is not one of soft, official; did you mean official? (conf/sheet/a.yaml)"
    )
    assert "True is not one of" in refusal(operator=True)
    assert "['soft'] is not one of" in refusal(operator=["soft"])


def test_what_the_class_itself_refuses_is_told_with_section_and_file():
    assert refusal(name="forbidden") == "sheet: name: forbidden is not allowed (conf/sheet/a.yaml)"


def test_did_you_mean_is_silent_about_strangers():
    assert did_you_mean("srora", ["sora", "lora"]) == "; did you mean sora?"
    assert did_you_mean("zzzz", ["sora", "lora"]) == ""
    assert did_you_mean("sora", []) == ""
