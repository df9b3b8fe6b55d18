"""Payloads read back as they were written, and plain JSON stays the JSON it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from resume_engine import ResumeEngine
from resume_engine.core import codec
from resume_engine.core.codec import PlainFields
from resume_engine.core.errors import (
    InputNotSerializableError,
    OutputNotSerializableError,
    PayloadUnreadableError,
)
from resume_engine.core.idempotency import canonical_json
from resume_engine.core.payload import as_recorded, payload_hash
from resume_engine.core.step_record import StepRecord
from resume_engine.storage.open_store import open_store
from resume_engine.storage.run_page_queries import RunPageQueries


@dataclasses.dataclass
class Claim:
    number: str
    opened: date
    amount: Decimal = Decimal("0.00")
    hidden: str = dataclasses.field(default="", repr=False)
    parts: list[Claim] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    at: datetime
    checks: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "checks", self.checks + 1)


class Address(BaseModel):
    model_config = ConfigDict(strict=True)
    street: str = Field(alias="streetName")
    since: datetime


class Customer(BaseModel):
    name: str
    password: SecretStr
    addresses: list[Address] = []


PLAIN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$codec", "$type", "value", "class", "a", "b"]), children, max_size=4
        )
    ),
    max_leaves=12,
)
TAGGED_VALUES = st.recursive(
    PLAIN_VALUES
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30))))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.binary()
    | st.builds(Path, st.sampled_from(["/tmp/a", "b/c", "."]))
    | st.builds(Claim, st.text(), st.dates(), st.decimals(allow_nan=False), st.text()),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$codec", "$type", "value", "class", "a", "b"]), children, max_size=4
        )
    ),
    max_leaves=12,
)


@given(PLAIN_VALUES)
@settings(max_examples=150)
def test_plain_json_is_stored_and_hashed_as_ever(value: Any) -> None:
    data = {"value": value}
    assert codec.dumps(data) == json.dumps(data)
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)
    assert canonical_json(data) == canonical
    assert payload_hash(data) == hashlib.sha256(canonical.encode()).hexdigest()
    assert codec.loads(codec.dumps(data)) == data
    assert codec.as_json(data) is data


@given(TAGGED_VALUES)
@settings(max_examples=250)
def test_every_value_reads_back(value: Any) -> None:
    text = codec.dumps(value)
    assert codec.loads(text) == value
    assert codec.dumps(codec.loads(text)) == text
    assert payload_hash({"v": codec.loads(text)}) == payload_hash({"v": value})
    assert codec.from_json(json.loads(json.dumps(codec.as_json(value)))) == value


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"a": 1, "b": [True, None, "é"]}, '{"a": 1, "b": [true, null, "\\u00e9"]}'),
        ({"$type": "datetime", "value": "now"}, '{"$type": "datetime", "value": "now"}'),
        ({"$codec": 1}, '{"$codec": 1}'),
        ({1: "one"}, '{"1": "one"}'),
        ({"t": (1, 2)}, '{"t": [1, 2]}'),
        ({}, "{}"),
    ],
)
def test_rows_of_0_2_0_read_as_they_were(data: Any, text: str) -> None:
    assert codec.dumps(data) == text
    assert codec.loads(text) == json.loads(text)


def test_what_looks_like_an_envelope_is_put_into_one() -> None:
    data = {"$codec": 1, "value": {"$type": "uuid", "value": "x"}}
    assert codec.loads(codec.dumps(data)) == data
    assert codec.loads('{"$codec": "mine", "value": 1}') == {"$codec": "mine", "value": 1}


def test_hidden_fields_count_in_the_hash() -> None:
    opened = date(2026, 1, 1)
    one, two = Claim("7", opened, hidden="a"), Claim("7", opened, hidden="b")
    assert repr(one) == repr(two)
    assert payload_hash({"claim": one}) != payload_hash({"claim": two})


def test_a_dataclass_is_restored_without_its_constructor() -> None:
    made = Frozen(datetime(2026, 1, 2, tzinfo=UTC))
    restored = codec.loads(codec.dumps({"it": made}))["it"]
    assert restored == made
    assert restored.checks == 1


def test_a_model_keeps_its_secrets_and_aliases() -> None:
    customer = Customer(
        name="Ana",
        password=SecretStr("hunter2"),
        addresses=[Address(streetName="Quay 1", since=datetime(2026, 1, 2, tzinfo=UTC))],
    )
    restored = codec.loads(codec.dumps(customer))
    assert restored == customer
    assert restored.password.get_secret_value() == "hunter2"


def test_an_unknown_class_gives_its_plain_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim("7", date(2026, 1, 1))
    text, digest = codec.dumps({"claim": claim}), payload_hash({"claim": claim})
    module = sys.modules[__name__]
    monkeypatch.delattr(module, "Claim")
    found = codec.loads(text)
    assert isinstance(found["claim"], PlainFields)
    assert found["claim"]["opened"] == date(2026, 1, 1)
    assert found["claim"] == {
        "number": "7",
        "opened": date(2026, 1, 1),
        "amount": 0,
        "hidden": "",
        "parts": [],
    }
    assert codec.dumps(found) == text, "written again, it is what it was"
    assert payload_hash(found) == digest, "and its key does not change"
    assert as_recorded(found) == found


def test_the_trace_does_not_depend_on_loaded_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run = engine.start_run("w")
        claim = Claim("7", date(2026, 1, 1))
        engine.execute_step(run.run_id, "s", 0, {}, lambda data, key: {"claim": claim})
        trace = engine.get_audit_log(run.run_id)
        shown = RunPageQueries(store).trace_start(run.run_id, limit=5)
        monkeypatch.delattr(sys.modules[__name__], "Claim")
        assert engine.get_audit_log(run.run_id) == trace
        assert [run.run_id, "w", *shown] == trace.splitlines()


def test_reading_never_imports() -> None:
    assert "antigravity" not in sys.modules
    tagged = {"$type": "dataclass", "class": "antigravity:fly", "value": {"a": 1}}
    found = codec.loads(json.dumps({"$codec": 1, "value": tagged}))
    assert isinstance(found, PlainFields)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "builtins:eval", "pathlib:Path", "", ":", "os:"]
)
def test_only_dataclasses_and_models_are_built(name: str) -> None:
    for kind in ("dataclass", "pydantic"):
        tagged = {"$type": kind, "class": name, "value": {"args": ["true"]}}
        assert isinstance(codec.loads(json.dumps({"$codec": 1, "value": tagged})), PlainFields)


@pytest.mark.parametrize(
    "value",
    [
        {"$type": "datetime", "value": "never"},
        {"$type": "pickle", "value": "gASV"},
        {"$type": ["x"]},
        *({"$type": name, "value": value} for name in codec._SIMPLE for value in ([], {}, None)),
        {"$type": "uuid", "value": 5},
    ],
)
def test_what_is_damaged_is_said(value: Any) -> None:
    with pytest.raises(PayloadUnreadableError, match="cannot be read"):
        codec.loads(json.dumps({"$codec": 1, "value": value}))


def test_a_model_that_nobody_wrote_so_is_left_in_plain_fields() -> None:
    day = {"$type": "date", "value": "2026-01-01"}
    tagged = {"$type": "pydantic", "class": f"{__name__}:Address", "value": {"city": day}}
    found = codec.loads(json.dumps({"$codec": 1, "value": tagged}))
    assert isinstance(found, PlainFields) and found["city"] == date(2026, 1, 1)


def test_a_newer_codec_is_refused() -> None:
    with pytest.raises(PayloadUnreadableError, match="knows only 1"):
        codec.loads('{"$codec": 2, "value": {}}')


@dataclasses.dataclass
class _Cycle:
    inner: Any = None


def _cycle() -> _Cycle:
    found = _Cycle()
    found.inner = found
    return found


def _local_object() -> object:
    @dataclasses.dataclass
    class Local:
        a: int = 1

    return Local()


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        float("nan"),
        {(1, 2): 3},
        1j,
        _local_object(),
        _cycle(),
        Claim,
        float("inf"),
        [float("nan")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_held_is_refused_before_the_step(value: Any) -> None:
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run = engine.start_run("w")
        with pytest.raises(InputNotSerializableError):
            engine.execute_step(run.run_id, "s", 0, {"x": value}, lambda data, key: pytest.fail("was called"))
        with pytest.raises(OutputNotSerializableError):
            engine.execute_step(run.run_id, "s", 0, {}, lambda data, key: {"x": value})


def test_steps_see_the_same_on_the_first_run_and_on_resume() -> None:
    seen: list[Any] = []
    initial = {"when": datetime(2026, 1, 2, tzinfo=UTC), "claim": Claim("7", date(2026, 1, 1))}
    flaky = [ConnectionError("away")]

    def first(data: dict[str, Any], key: str) -> dict[str, Any]:
        seen.append(data)
        return {"id": UUID(int=5), "raw": b"\x00\xff", "path": Path("/a"), "took": timedelta(seconds=1.5)}

    def second(data: dict[str, Any], key: str) -> dict[str, Any]:
        seen.append((data, key))
        if flaky:
            raise flaky.pop()
        return {"at": time(12, 30)}

    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run = engine.start_run("w", metadata={"due": date(2026, 2, 1)})
        with pytest.raises(ConnectionError):
            engine.execute_workflow(run.run_id, [("first", first), ("second", second)], initial_input=initial)
        done = engine.resume(run.run_id, [("first", first), ("second", second)], initial_input=initial)
        assert seen[0] == initial
        assert seen[1] == seen[2], "the same input with the same key"
        assert seen[1][0]["raw"] == b"\x00\xff" and isinstance(seen[1][0]["claim"], Claim)
        assert done.metadata["due"] == date(2026, 2, 1)
        assert done.steps[-1].output_data == {"at": time(12, 30)}
        wire = json.loads(json.dumps(done.to_dict()))
        assert [StepRecord.from_dict(step).input_data for step in wire["steps"]] == [
            step.input_data for step in done.steps
        ]
        assert engine.replay_run(run.run_id, [("first", first), ("second", second)])[1] == done.audit_trace()


def test_an_environment_in_tagged_metadata_counts() -> None:
    with open_store("sqlite:///:memory:") as store:
        engine = ResumeEngine(store)
        run = engine.start_run("w", metadata={"due": date(2026, 2, 1), "environment": "prod"})
        found = engine.get_run_status(run.run_id)
        assert found is not None
        assert type(found).from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_error_says_what_to_use_instead() -> None:
    with pytest.raises(TypeError, match="a set cannot be kept; use JSON values, dates"):
        codec.dumps({"x": {1}})


def test_many_texts_are_read_like_one() -> None:
    values = ({}, {"a": [1, None]}, {"due": date(2026, 11, 25)}, {"$codec": 1, "value": 2})
    texts = [codec.dumps(value) for value in values]
    assert codec.loads_many(texts) == [codec.loads(text) for text in texts] == list(values)
    assert codec.loads_many([]) == []
    for damaged in (["{}", "{", "}"], ["{},{}"], ["{}", ""]):
        with pytest.raises(ValueError):
            codec.loads_many(damaged)
