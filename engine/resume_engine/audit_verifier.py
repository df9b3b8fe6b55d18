"""Verify a compliance export of OrchestrateOS with nothing but Python's standard library.

python verify.py EXPORT.json [--key PUBLIC_KEY] [--against CHECKPOINTS.jsonl]

PUBLIC_KEY is the .pub file of `resume-engine audit keygen`, or its 64 hex digits, from somebody you trust;
the other file is what `resume-engine audit seal --out` wrote. Exit code 0: intact. 1: tampered with; the
first bad place is named. 2: it cannot be told. 3: it is no export, or key and checkpoints are none.
"""

import argparse
import base64
import hashlib
import heapq
import json
import os
import sys
from typing import Any

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ENTRY, SEAL, EXPORT = (f"resume-engine/{what}/1\n".encode() for what in ("audit", "checkpoint", "export"))
ENDS = {"run.completed": "completed", "gate.rejected": "cancelled", "run.rolled_back": "cancelled"}
ACK = "prod_resume_ack"
KINDS = {"approved": "human_approval", "compensated": "compensation", "rejected": "reject", ACK: ACK}
KEY_PREFIX = bytes.fromhex("302a300506032b6570032100")  # what a public Ed25519 key begins with in a PEM file


class Tampered(Exception):
    """Something is not as it was recorded."""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any, ascii_only: bool = False) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only)
    return text.encode("utf-8", "surrogatepass")


def add(a: Any, b: Any) -> Any:
    (x, y), (u, v) = a, b
    t = D * x * u * y * v
    return (x * v + u * y) * pow(1 + t, -1, P) % P, (y * v + x * u) * pow(1 - t, -1, P) % P


def times(scalar: int, point: Any) -> Any:
    rest = times(scalar // 2, add(point, point)) if scalar > 1 else (0, 1)
    return add(rest, point) if scalar % 2 else rest


def point_of(raw: bytes) -> Any:
    y, sign = int.from_bytes(raw, "little") % 2**255, raw[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square or (x == 0 and sign):
        raise ValueError("no point of the curve")
    return (x if x % 2 == sign else P - x), y


def is_signed(key: bytes, message: bytes, signature: str) -> bool:
    """Ed25519 as RFC 8032 has it: S*B == R + H(R, A, M)*A."""
    try:
        raw = bytes.fromhex(signature)
        a, b, r = (point_of(encoded) for encoded in (key, bytes([0x58] + [0x66] * 31), raw[:32]))
    except (ValueError, IndexError):
        return False
    s = int.from_bytes(raw[32:], "little")
    h = int.from_bytes(hashlib.sha512(raw[:32] + key + message).digest(), "little") % L
    return len(raw) == 64 and raw.hex() == signature and s < L and times(s, b) == add(r, times(h, a))


def read_key(text: str) -> bytes:
    try:
        raw = KEY_PREFIX + bytes.fromhex(text)
    except ValueError:
        with open(text, encoding="utf-8") as file:
            raw = base64.b64decode("".join(line.strip() for line in file if not line.startswith("-")))
    if len(raw) != 44 or not raw.startswith(KEY_PREFIX):
        raise ValueError(f"{text} is no public Ed25519 key: give the .pub file, or 64 hex digits")
    return raw[-32:]


def read_anchors(path: str) -> dict[int, str]:
    with open(path, encoding="utf-8") as file:
        try:
            anchors = {one["number"]: one["hash"] for one in map(json.loads, filter(str.strip, file))}
        except (ValueError, KeyError, TypeError, RecursionError):
            anchors = {}
    if not anchors:
        raise ValueError(f"{path} holds no checkpoints as `audit seal --out` writes them")
    return anchors


def is_export(path: str) -> bool:
    """Return whether the file begins or ends like an export: whatever is wrong with it was done to it."""
    with open(path, "rb") as file:
        begins = file.readline(100).startswith(b'{"format":"resume-engine/export/')
        file.seek(max(0, os.path.getsize(path) - 1000))
        return begins or b'\n"content":{"hash":"' in file.read()


def sections(path: str) -> Any:
    """Return the parts of the file, of lists where they begin, and the hash of all but the last line."""
    parts, digest, line, at = {}, hashlib.sha256(), b"", 0
    with open(path, "rb") as file:
        for row, following in enumerate(file, start=1):
            digest.update(line)
            at, line = at + len(line), following
            if line.startswith((b'"', b'{"format"')) and b":" in line:
                name, _, value = line.rstrip(b"\n").lstrip(b"{").partition(b":")
                parts[json.loads(name)] = (at + len(line), row) if value == b"[" else json.loads(value[:-1])
    if line != b'"content":' + canonical(parts.get("content")) + b"}\n":
        raise Tampered("the last line: it is damaged, or something follows it")
    return parts, digest.hexdigest()


def elements(path: str, begin: int, line_before: int) -> Any:
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
    header, made = entry["header"], sha(ENTRY + canonical(entry["header"]))
    if made != entry["hash"]:
        raise Tampered(f"{place}: it is not what was recorded (expected {made})")
    for name, text in [pair for pair in entry["body"].items() if pair[0] not in entry["masked"]]:
        expected, found = header[name], sha(text.encode("utf-8", "surrogatepass"))
        if name == "input" and expected is None:  # the hash that the step's key is made of covers it
            expected, given = header["input_hash"], json.loads(text)
            inputs = [given["value"], given] if given.keys() == {"$codec", "value"} else [given]
            hashes = [sha(canonical(one, ascii_only=True)) for one in inputs]
            found = expected if expected in hashes else hashes[-1]
        if expected != found:
            raise Tampered(f"{place}: its {name} is not what was recorded ({found} instead of {expected})")


def told_by(entry: Any) -> Any:
    """Return what the event of a decision says of it, masked texts left out."""
    header, payload = entry["header"], json.loads(entry["body"]["payload"])
    said = {name: header[name] for name in ("actor", "channel", "failure_key", "role")}
    said |= {"decided_at": header["time"], "kind": KINDS[header["event_type"][5:]]}
    if "note" not in entry["masked"]:
        said["note"] = entry["body"].get("note")
    if "payload" not in entry["masked"] and "carried_over" not in payload:
        said |= {
            name: payload.get(name) for name in ("display_name", "expires_at", "result", "step_sequence")
        }
        if "opened" in payload or "made_on" not in payload:
            said["opened"] = payload.get("opened", True)
    return said


def check_decisions(found: Any, told: list[Any], stream: str) -> None:
    for one in found:
        said = next((s for s in told if all(one.get(name, s[name]) == s[name] for name in s)), None)
        if said is None:
            raise Tampered(f"{stream}: no event tells of the decision by {one['actor']} as it stands here")
        told.remove(said)
    for said in told:
        raise Tampered(f"{stream}: the decision by {said['actor']} is not among the decisions")


def said_of_run(entry: Any) -> Any:
    """Return what an event tells of how its run began or ended; None takes back what was told before."""
    header, kind = entry["header"], entry["header"]["event_type"]
    if kind in ENDS:
        return {"status": ENDS[kind], "finished_at": header["time"]}
    if kind not in ("run.started", "run.updated"):
        return {}
    is_masked = "payload" in entry["masked"]
    payload = {} if is_masked else json.loads(entry["body"]["payload"])
    said: dict[str, Any] = {"is_masked": True} if is_masked else {}
    if kind == "run.started":
        said |= {name: payload.get(name) for name in ("workflow_name", "environment", "status")}
        said |= {"started_by": header["actor"], "created_at": header["time"]}
    elif payload.get("status") != payload.get("status_before"):
        ended = payload["status"] == "completed"
        said |= {"status": "completed" if ended else None, "finished_at": header["time"] if ended else None}
    return said


def walk(path: str, parts: Any) -> int:
    """Check every entry and its place, and what follows from entries; return how many there are."""
    end, head, seq, told = parts["integrity"], None, 0, []
    of_run: dict[str, Any] = {}
    stream, sealed = end["stream"], end["leaf"] or {"seq": 0}
    entries = [elements(path, *parts[name]) for name in ("steps", "audit_events")]
    for entry in heapq.merge(*entries, key=lambda entry: entry["header"]["seq"]):
        header, seq = entry["header"], seq + 1
        if (header["seq"], header["stream"], header["prev"]) != (seq, stream, head):
            raise Tampered(f"{stream} #{seq}: it is missing or out of place (found #{header['seq']})")
        check_entry(entry, f"{stream} #{seq}")
        head = entry["hash"]
        if sealed["seq"] == seq and sealed["head"] != head:
            raise Tampered(f"{stream} #{seq}: history was rewritten after it was sealed")
        if header["entry"] == "event":
            of_run |= said_of_run(entry)
            told += [told_by(entry)] if header["event_type"].removeprefix("gate.") in KINDS else []
    if (end["seq"], end["head"]) != (seq, head) or sealed["seq"] > seq:
        raise Tampered(f"{stream} #{seq + 1}: the end is cut off, there were {end['seq']} entries")
    status, is_masked = parts["run"]["status"], of_run.pop("is_masked", False)
    if "created_at" in of_run and not (of_run["status"] or is_masked) and status in ENDS.values():
        raise Tampered(f"{stream}: it is {status}, and no entry tells that it ended")
    for name, value in of_run.items():
        if value not in (None, parts["run"][name]):
            raise Tampered(f"{stream}: its entries tell that {name} was {value}, not {parts['run'][name]}")
    check_decisions(elements(path, *parts["decisions"]), told, stream)
    return seq


def check_seal(end: Any, content: Any, key: bytes | None, anchors: Any) -> Any:
    """Check the checkpoint and what is signed; yield what cannot be told."""
    made, leaf = end["checkpoint"], end["leaf"]
    message = SEAL + canonical({k: v for k, v in made.items() if k not in ("hash", "signature")})
    node = hashlib.sha256(b"\x00" + canonical(leaf)).digest()
    for side, beside in end["path"]:
        pair = (bytes.fromhex(beside), node) if side == "left" else (node, bytes.fromhex(beside))
        node = hashlib.sha256(b"\x01" + b"".join(pair)).digest()
    if leaf["stream"] != end["stream"] or (node.hex(), sha(message)) != (made["root"], made["hash"]):
        raise Tampered(f"checkpoint {made['number']}: it does not seal this run")
    if anchors.get(made["number"], made["hash"]) != made["hash"]:
        raise Tampered(f"checkpoint {made['number']}: it is not the one kept outside")
    if anchors and made["number"] not in anchors:
        yield f"checkpoint {made['number']} is not among those kept outside"
    if key is None or made["algorithm"] != "ed25519":
        yield f"the signature ({made['algorithm']}) was not checked: give the public key with --key"
    elif not is_signed(key, message, made["signature"]):
        raise Tampered("the checkpoint does not carry the signature of the key")
    elif not content["signature"]:
        yield "beside the entries nothing is proven (run, gates, masked values): the export is not signed"
    elif not is_signed(key, EXPORT + content["hash"].encode(), content["signature"]):
        raise Tampered("the export does not carry the signature of the key")
    if leaf["seq"] < end["seq"]:
        yield f"{end['seq'] - leaf['seq']} entries were written after checkpoint {made['number']}"


def examine(path: str, key: bytes | None, anchors: Any) -> tuple[int, list[str]]:
    parts, digest = sections(path)
    count = walk(path, parts)
    for entry in elements(path, *parts["control_events"]):
        check_entry(entry, f"control #{entry['header']['seq']}")
    if digest != parts["content"]["hash"]:
        raise Tampered("beside the entries: it is not what was written (run, masked values or integrity)")
    if parts["integrity"]["checkpoint"] is None:
        return count, ["no checkpoint seals this run"]
    return count, list(check_seal(parts["integrity"], parts["content"], key, anchors))


def verify(path: str, key: bytes | None, anchors: Any) -> tuple[int, list[str]]:
    if not is_export(path):
        raise ValueError(f"{path}: it is no compliance export")
    try:
        return examine(path, key, anchors)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as problem:
        raise Tampered(f"something in it cannot be read any more ({problem!r})") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("--key")
    parser.add_argument("--against")
    try:
        given = parser.parse_args()
        key = None if given.key is None else read_key(given.key)
        anchors = {} if given.against is None else read_anchors(given.against)
        count, doubts = verify(given.export, key, anchors)
    except SystemExit as end:  # the parser has said what is wrong
        return 3 if end.code else 0
    except Tampered as problem:
        print(f"TAMPERED WITH: {problem}")
        return 1
    except (OSError, ValueError) as problem:
        print(f"UNREADABLE: {problem}")
        return 3
    print("\n- ".join([f"{'CANNOT TELL' if doubts else 'INTACT'}: {count} entries fit together", *doubts]))
    return 2 if doubts else 0


if __name__ == "__main__":
    sys.exit(main())
