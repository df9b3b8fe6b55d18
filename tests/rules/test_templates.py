"""House rules of the pages: nothing inline, nothing from outside, nothing unescaped."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "templates").rglob("*.*"))
STATIC = sorted(path for path in (ROOT / "static").rglob("*") if path.suffix in {".css", ".js", ".svg"})
WEB_MODULES = sorted((ROOT / "webapp").rglob("*.py"))

FORBIDDEN = {
    "an inline script": r"<script(?![^>]*\bsrc=)",
    "an inline style sheet": r"<style\b",
    "a style attribute": r"<[^>]*\sstyle\s*=",
    "a script in an attribute": r"<[^>]*\son[a-z]+\s*=\s*[\"'{]",
    "hx-on": r"\bhx-on\b|\bhx-on:",
    "a script in an htmx attribute": r"\bhx-[a-z-]+\s*=\s*[\"']js:",
    "a javascript: address": r"[\"']\s*javascript:",
    "the safe filter": r"\|\s*safe\b",
    "escaping switched off": r"autoescape\s+false",
    "an attribute value without quotes": r"<[^>{]*\s[a-z-]+=\{\{",
    "a file from another site": r"(?:src|href|action|hx-get|hx-post)\s*=\s*[\"'](?:https?:)?//",
}
COMMENT = re.compile(r"\{#.*?#\}|<!--.*?-->", re.DOTALL)


def identifier(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_templates_to_look_at() -> None:
    assert TEMPLATES
    assert STATIC


@pytest.mark.parametrize("rule", FORBIDDEN)
@pytest.mark.parametrize("path", TEMPLATES, ids=identifier)
def test_template_keeps_the_house_rules(path: Path, rule: str) -> None:
    # Comments are blanked, not removed, so that the line number stays right.
    text = COMMENT.sub(lambda hit: re.sub(r"\S", " ", hit.group()), path.read_text(encoding="utf-8"))
    found = re.search(FORBIDDEN[rule], text, re.IGNORECASE)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        pytest.fail(f"{identifier(path)}:{line} holds {rule}: {found.group()[:80]}", pytrace=False)


@pytest.mark.parametrize(
    ("rule", "example"),
    [
        ("an inline script", "<script>go()</script>"),
        ("a style attribute", '<p class="x" style="color: red">'),
        ("a script in an attribute", '<a href="#" onclick="go()">'),
        ("hx-on", "<a hx-on:click='go()'>"),
        ("the safe filter", "{{ text | safe }}"),
        ("an attribute value without quotes", "<a title={{ text }}>"),
        ("a file from another site", '<script src="https://cdn.example/x.js">'),
        ("a file from another site", '<img src="//cdn.example/x.png">'),
    ],
)
def test_the_rules_find_what_they_forbid(rule: str, example: str) -> None:
    assert re.search(FORBIDDEN[rule], example, re.IGNORECASE)


@pytest.mark.parametrize("path", STATIC, ids=identifier)
def test_static_file_is_self_contained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # An SVG namespace is a name, not an address that is visited.
    text = text.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    outside = re.search(r"(?:url\(|@import|src|href|fetch\()[\s\"'=(]*(?:https?:)?//\S+", text)
    assert outside is None, f"{identifier(path)}: {outside.group()}" if outside else ""
    if path.suffix == ".js":
        unsafe = re.search(r"\beval\s*\(|new Function\b|\.innerHTML\b|\.outerHTML\b|document\.write\b", text)
        assert unsafe is None, f"{identifier(path)}: {unsafe.group()}" if unsafe else ""


@pytest.mark.parametrize("path", WEB_MODULES, ids=identifier)
def test_python_builds_no_unescaped_html(path: Path) -> None:
    """`Markup` joins or formats escaped parts; it never wraps a value as it came."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        where = f"{identifier(path)}:{node.lineno}"
        assert name != "render_template_string", f"{where}: templates are files"
        if name == "Markup":
            constant = not node.args or isinstance(node.args[0], ast.Constant)
            assert constant, f"{where}: Markup() around a value that is not a literal"
