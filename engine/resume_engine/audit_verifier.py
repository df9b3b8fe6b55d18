"""Verify a compliance export of OrchestrateOS with nothing but Python's standard library.

python verify.py EXPORT.json [--key PUBLIC_KEY] [--against CHECKPOINTS.jsonl]

PUBLIC_KEY is the .pub file of `resume-engine audit keygen`, or its 64 hex digits, from somebody you trust;
the other file is what `resume-engine audit seal --out` wrote. Exit code 0: intact. 1: tampered with; the
first bad place is named. 2: it cannot be told. 3: it cannot be read.
"""

import argparse
import base64
import hashlib
import heapq
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ENTRY, CHECKPOINT, EXPORT = (
    f"resume-engine/{kind}/1\n".encode() for kind in ("audit", "checkpoint", "export")
)
Point = tuple[int, int, int, int]


class Tampered(Exception):
    """Something is not as it was recorded."""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def add(a: Point, b: Point) -> Point:
    m, n = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = n - m, d - c, d + c, n + m
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar: int, point: Point) -> Point:
    found = (0, 1, 1, 0)
    for bit in bin(scalar)[2:]:
        found = add(found, found)
        found = add(found, point) if bit == "1" else found
    return found


def point_of(raw: bytes) -> Point:
    y, sign = int.from_bytes(raw, "little") & (2**255 - 1), raw[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x * pow(2, (P - 1) // 4, P) % P if (x * x - square) % P else x
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        raise ValueError("no point of the curve")
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def is_signed(key: bytes, message: bytes, signature: str) -> bool:
    """Ed25519 as RFC 8032 has it: S*B == R + H(R, A, M)*A."""
    try:
        raw, at, base = bytes.fromhex(signature), point_of(key), point_of(bytes([0x58] + [0x66] * 31))
        r, s = point_of(raw[:32]), int.from_bytes(raw[32:], "little")
    except (ValueError, IndexError):
        return False
    h = int.from_bytes(hashlib.sha512(raw[:32] + key + message).digest(), "little") % L
    one, other = times(s, base), add(r, times(h, at))
    same = all((one[i] * other[2] - other[i] * one[2]) % P == 0 for i in (0, 1))
    return raw.hex() == signature and len(raw) == 64 and s < L and same


def read_key(text: str) -> bytes:
    if not os.path.exists(text):
        return bytes.fromhex(text)
    with open(text, encoding="ascii") as file:
        return base64.b64decode("".join(line.strip() for line in file if not line.startswith("-")))[-32:]


def sections(path: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]], str]:
    """Return what is not a list, place and line of the lists, and the hash of all but the last line."""
    parts, lists, digest, line, at = {}, {}, hashlib.sha256(), b"", 0
    with open(path, "rb") as file:
        for number, following in enumerate(file, start=1):
            digest.update(line)
            at, line = at + len(line), following
            if following.startswith((b'"', b'{"format"')) and b":" in following:
                name, _, value = following.rstrip(b"\n").lstrip(b"{").partition(b":")
                if value == b"[":
                    lists[json.loads(name)] = (at + len(following), number)
                else:
                    parts[json.loads(name)] = json.loads(value[:-1])
    if line != b'"content":' + canonical(parts.get("content")) + b"}\n":
        raise Tampered("the last line: it is damaged, or something follows it")
    return parts, lists, digest.hexdigest()


def elements(path: str, begin: int, line_before: int) -> Iterator[Any]:
    with open(path, "rb") as file:
        file.seek(begin)
        for number, line in enumerate(file, start=line_before + 1):
            if line == b"],\n":
                return
            try:
                yield json.loads(line.rstrip(b",\n"))
            except ValueError:
                raise Tampered(f"line {number}: it cannot be read any more") from None
    raise Tampered("the end of the file: it is cut off")


def check_entry(entry: Any, place: str) -> None:
    header, bodies, masked = entry["header"], entry["body"], entry["masked"]
    if sha(ENTRY + canonical(header)) != entry["hash"]:
        raise Tampered(f"{place}: it is not what was recorded (expected {sha(ENTRY + canonical(header))})")
    for name, text in ((name, text) for name, text in bodies.items() if name not in masked):
        expected, found = header[name], sha(text.encode("utf-8", "surrogatepass"))
        if name == "input" and expected is None:  # the hash that the step's key is made of covers it
            data = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
            expected, found = header["input_hash"], sha(data.encode())
        if expected != found:
            raise Tampered(
                f"{place}: its {name} is not what was recorded (expected {expected}, found {found})"
            )


def walk(path: str, lists: dict[str, tuple[int, int]], end: Any, decisions: Any) -> int:
    """Check every entry and its place; return how many there are."""
    stream, head, seq, told, sealed = end["stream"], None, 0, set(), end["leaf"] or {"seq": 0}
    entries = [elements(path, *lists[name]) for name in ("steps", "audit_events")]
    for entry in heapq.merge(*entries, key=lambda entry: entry["header"]["seq"]):
        header, seq = entry["header"], seq + 1
        if (header["seq"], header["stream"], header["prev"]) != (seq, stream, head):
            raise Tampered(f"{stream} #{seq}: it is missing or out of place (found #{header['seq']})")
        check_entry(entry, f"{stream} #{seq}")
        head = entry["hash"]
        if sealed["seq"] == seq and sealed["head"] != head:
            raise Tampered(f"{stream} #{seq}: history was rewritten after it was sealed")
        if header["entry"] == "event" and header["event_type"].startswith("gate."):
            told.add((header["failure_key"], header["actor"], header["time"]))
    if (end["seq"], end["head"]) != (seq, head) or sealed["seq"] > seq:
        raise Tampered(f"{stream} #{seq + 1}: the end is cut off, there were {end['seq']} entries")
    for one in decisions:
        if (one["failure_key"], one["actor"], one["decided_at"]) not in told:
            raise Tampered(f"{stream}: no event tells of the decision by {one['actor']}")
    return seq


def check_seal(end: Any, content: Any, key: bytes | None, anchors: dict[int, Any]) -> Iterator[str]:
    """Check the checkpoint and what is signed; yield what cannot be told."""
    made, leaf = end["checkpoint"], end["leaf"]
    if made is None:
        yield "no checkpoint seals this run"
        return
    message = CHECKPOINT + canonical({k: v for k, v in made.items() if k not in ("hash", "signature")})
    node = hashlib.sha256(b"\x00" + canonical(leaf)).digest()
    for side, beside in end["path"]:
        pair = [bytes.fromhex(beside), node] if side == "left" else [node, bytes.fromhex(beside)]
        node = hashlib.sha256(b"\x01" + b"".join(pair)).digest()
    anchor = anchors.get(made["number"], made)
    if leaf["stream"] != end["stream"] or (node.hex(), sha(message)) != (made["root"], made["hash"]):
        raise Tampered(f"checkpoint {made['number']}: it does not seal this run")
    if anchor["hash"] != made["hash"]:
        raise Tampered(f"checkpoint {made['number']}: it is not the one kept outside")
    if key is None or made["algorithm"] != "ed25519":
        yield f"the signature ({made['algorithm']}) was not checked: give the public key with --key"
    else:
        signed = ((message, made["signature"]), (EXPORT + content["hash"].encode(), content["signature"]))
        for what, (text, signature) in zip(("checkpoint", "export"), signed, strict=True):
            if signature and not is_signed(key, text, signature):
                raise Tampered(f"the {what} does not carry the signature of the key")
    if leaf["seq"] < end["seq"]:
        yield f"{end['seq'] - leaf['seq']} entries were written after checkpoint {made['number']}"


def verify(path: str, key: bytes | None, anchors: dict[int, Any]) -> tuple[int, list[str]]:
    parts, lists, digest = sections(path)
    decisions = elements(path, *lists["decisions"])
    count = walk(path, lists, parts["integrity"], decisions)
    for entry in elements(path, *lists["control_events"]):
        check_entry(entry, f"control #{entry['header']['seq']}")
    if digest != parts["content"]["hash"]:
        raise Tampered(
            "beside the entries: the file is not what was written (run, masked values or integrity)"
        )
    return count, list(check_seal(parts["integrity"], parts["content"], key, anchors))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("--key", type=read_key)
    parser.add_argument("--against")
    given = parser.parse_args()
    try:
        with open(given.against or os.devnull, encoding="utf-8") as file:
            anchors = {one["number"]: one for one in map(json.loads, file)}
        count, doubts = verify(given.export, given.key, anchors)
    except Tampered as problem:
        print(f"TAMPERED WITH: {problem}")
        return 1
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as problem:
        print(f"UNREADABLE: {type(problem).__name__} {problem}")
        return 3
    print("\n- ".join([f"{'CANNOT TELL' if doubts else 'INTACT'}: {count} entries fit together", *doubts]))
    return 2 if doubts else 0


if __name__ == "__main__":
    sys.exit(main())
