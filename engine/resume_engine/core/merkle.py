"""Merkle trees as RFC 6962 builds them: leaves and nodes are hashed with different first bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root over hashes of leaves, with one hash for each level in memory."""
    stack: list[tuple[int, bytes]] = []  # (leaves below, hash): sizes are powers of two that fall
    for leaf in leaves:
        size, found = 1, leaf
        while stack and stack[-1][0] == size:
            found = node_hash(stack.pop()[1], found)
            size *= 2
        stack.append((size, found))
    if not stack:
        return hashlib.sha256(b"").digest()
    found = stack.pop()[1]
    while stack:
        found = node_hash(stack.pop()[1], found)
    return found


def path_to(leaves: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    """Return the hashes beside the way from a leaf up to the root, each with its side."""
    if len(leaves) <= 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < split:
        return [*path_to(leaves[:split], index), ("right", root_of(leaves[split:]))]
    return [*path_to(leaves[split:], index - split), ("left", root_of(leaves[:split]))]


def root_from(leaf: bytes, path: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the root that a leaf and its path lead to."""
    for side, beside in path:
        leaf = node_hash(beside, leaf) if side == "left" else node_hash(leaf, beside)
    return leaf
