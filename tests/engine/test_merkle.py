"""Merkle trees and checkpoints: golden values, and that every path leads to the root."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resume_engine.core.checkpoint import Checkpoint, Leaf
from resume_engine.core.merkle import leaf_hash, node_hash, path_to, root_from, root_of

_LEAVES = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def as_the_rfc_defines_it(entries: list[bytes]) -> bytes:
    """Return MTH(D[n]) of RFC 6962, section 2.1."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return leaf_hash(entries[0])
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return node_hash(as_the_rfc_defines_it(entries[:k]), as_the_rfc_defines_it(entries[k:]))


@given(_LEAVES)
def test_the_root_is_that_of_the_rfc(entries: list[bytes]) -> None:
    assert root_of(map(leaf_hash, entries)) == as_the_rfc_defines_it(entries)


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert root_of([]) == as_the_rfc_defines_it([])


@given(_LEAVES)
def test_every_path_leads_to_the_root(entries: list[bytes]) -> None:
    hashes = [leaf_hash(entry) for entry in entries]
    for index, leaf in enumerate(hashes):
        assert root_from(leaf, path_to(hashes, index)) == root_of(hashes)


def test_a_leaf_does_not_pass_for_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


# Golden values: a release that changes them cannot check what an earlier one signed.

MADE = Checkpoint(
    number=7,
    created_at=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
    streams=2,
    entries=9,
    root="ab" * 32,
    previous_hash=None,
    key_id="0123456789abcdef",
    algorithm="ed25519",
    signature="00",
)


def test_what_is_signed_never_changes() -> None:
    assert MADE.message == (
        b'resume-engine/checkpoint/1\n{"algorithm":"ed25519","created_at":"2026-03-01T12:00:00.123456+00:00",'
        b'"entries":9,"key_id":"0123456789abcdef","number":7,"previous_hash":null,"root":"'
        + b"ab"
        * 32
        + b'",'
        b'"streams":2,"v":1}'
    )
    leaf = Leaf(stream="run-ü", seq=3, head="cd" * 32)
    text = '{"head":"' + "cd" * 32 + '","seq":3,"stream":"run-ü"}'
    assert leaf.hash == hashlib.sha256(b"\x00" + text.encode()).digest()


def test_a_checkpoint_is_read_back_and_a_changed_one_refused() -> None:
    data = MADE.to_dict()
    assert Checkpoint.from_dict(data) == MADE
    for name in ("number", "streams", "entries", "root", "key_id", "algorithm", "created_at"):
        changed = data | {name: 8 if isinstance(data[name], int) else "2026-03-02T00:00:00+00:00"}
        with pytest.raises(ValueError, match="another hash"):
            Checkpoint.from_dict(changed)
