"""Hashes and keys, byte for byte as release 0.2.0 computed them (the values come from that release)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest

from resume_engine.core.idempotency import (
    canonical_json,
    generate_idempotency_key,
    generate_run_id,
    hash_input,
)


@dataclass
class Order:
    number: int


VECTORS: list[tuple[dict[Any, Any], str, str]] = [
    ({}, "{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
    (
        {"b": 1, "a": [1, 2.5, None, True]},
        '{"a":[1,2.5,null,true],"b":1}',
        "d749551af46b4a5d105963e6fa3c8e0b889d422ca25c1c01ebbd97851eaf3280",
    ),
    (
        {"text": "naïve ✓ \U0001f9fe"},
        '{"text":"na\\u00efve \\u2713 \\ud83e\\uddfe"}',
        "8b7fcbfced803b7562770327b64ff3cef1c8284f4ffc795c0fd91e429cd90315",
    ),
    (
        {"nul": "a\x00b"},
        '{"nul":"a\\u0000b"}',
        "7a3689fd935df087bd6d274327fe707a2fe3f9db281ae0a1ef52f99b7c888e4a",
    ),
    (
        {"half": "\ud800"},
        '{"half":"\\ud800"}',
        "53bd2a6504049f43a35c7f8d6c44454b887cfcddb3328121de085c10c6d21f16",
    ),
    (
        {"n": 1e300, "m": -0.0, "i": 10**20},
        '{"i":100000000000000000000,"m":-0.0,"n":1e+300}',
        "eec294986026aca6deac25235e483543551d4af81bc7d9f9989e9f809251168f",
    ),
    (
        {"nested": {"z": {"y": 1}, "a": {}}},
        '{"nested":{"a":{},"z":{"y":1}}}',
        "d4e49140e9d83d71ea59bddb74de237b61e6af4ff17d315b2cb52764da78549a",
    ),
    (
        {1: "int key", 2: "b"},
        '{"1":"int key","2":"b"}',
        "a6540d5ee80bc867d8b99b8f789783e113d87a1394dfd22c8d97d168f7a6e731",
    ),
    (
        {"quote": "\"'\\/<>&"},
        '{"quote":"\\"\'\\\\/<>&"}',
        "62cc16d41d211755929be8b573a32175b1c823f88b41d5120ec680d5e13ab5af",
    ),
    (
        {"tuple": (1, 2)},
        '{"tuple":[1,2]}',
        "e8e6c82526499a00ac0aa7b5c86f4262199c3e8a76b09ab4be069e95d9701fe7",
    ),
    (
        {"at": datetime(2026, 3, 1, 12, tzinfo=UTC)},
        '{"at":"2026-03-01 12:00:00+00:00"}',
        "5f986a61e8ae5ef28907698cf345e1fd18e33dbe714feffabd06fdf09c15e757",
    ),
    (
        {"day": date(2026, 3, 1)},
        '{"day":"2026-03-01"}',
        "329034fac28aecd71f903e4c551548cc60ac5cf08faebe49d3baacfa4fc9d48c",
    ),
    (
        {"price": Decimal("1.10")},
        '{"price":"1.10"}',
        "a9135a8c5612d900a71f0add045f40416c26bc2e7c3b563d3130248c279ff9ca",
    ),
    (
        {"id": UUID(int=1)},
        '{"id":"00000000-0000-0000-0000-000000000001"}',
        "2dc5f9c55037c706dbbeee318933924c80a78eeff51d5f0d9310ced9801bfe6b",
    ),
    (
        {"path": PurePosixPath("/a/b")},
        '{"path":"/a/b"}',
        "bf959589533c765717dddf462b1463ed722f5f2b97e65d967043507800984f66",
    ),
    (
        {"order": Order(7)},
        '{"order":"Order(number=7)"}',
        "35f93ef58996401e30ecd6792366248c4fe34e60e37a6f3f4bc3538a8ab89326",
    ),
    (
        {"nan": float("nan")},
        '{"nan":NaN}',
        "7ebc149e63700f0bd0705dc00410d5e696788f241ad192cd65845733e1fe7892",
    ),
]


@pytest.mark.parametrize(("data", "text", "digest"), VECTORS, ids=[text for _, text, _ in VECTORS])
def test_canonical_json_and_hash(data: dict[Any, Any], text: str, digest: str) -> None:
    assert canonical_json(data) == text
    assert hash_input(data) == digest


def test_keys() -> None:
    run_id = "d0000001-0000-4000-8000-000000000001"
    input_hash = "d749551af46b4a5d105963e6fa3c8e0b889d422ca25c1c01ebbd97851eaf3280"
    assert generate_idempotency_key(run_id, "charge", 3, input_hash) == (
        "86232025f744a84bc444d451ff50048c057d23cfd5c93b52ed0d23970eee1a9f"
    )
    assert generate_idempotency_key("r", "räk:smörgås", 0, hash_input({})) == (
        "d60dbb171227fec3c8e51277eb8edc702c618a8fe19781a2e2f2f394736ad79c"
    )


def test_the_order_of_keys_does_not_matter() -> None:
    names = [f"name {number}" for number in range(50)]
    wanted = hash_input(dict.fromkeys(names, 1))
    random.Random(7).shuffle(names)
    assert hash_input(dict.fromkeys(names, 1)) == wanted


@pytest.mark.parametrize(("one", "other"), [(1, "1"), (1, True), (1, 1.0), (None, ""), ([], {}), (0, None)])
def test_types_make_a_difference(one: object, other: object) -> None:
    assert hash_input({"x": one}) != hash_input({"x": other})


def test_run_ids_are_random_uuids() -> None:
    made = {generate_run_id() for _ in range(100)}
    assert len(made) == 100
    assert {UUID(run_id).version for run_id in made} == {4}
    assert {len(run_id) for run_id in made} == {36}
