"""Build hook: bring htmx and the top-level `templates/` and `static/` folders into the package.

htmx is not committed. It is copied from a pinned wheel, and a file whose SHA-256 is not the one written here
stops the build.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DONOR = "django-htmx==1.29.0"
VENDORED = {
    # path inside the donor package -> (name in webapp/_vendor, SHA-256)
    "static/django_htmx/htmx-2.min.js": (
        "htmx-2.min.js",
        "71ea67185bfa8c98c39d31717c6fce5d852370fcdfd129db4543774d3145c0de",
    ),
}
NOTICE = f"""\
htmx-2.min.js: htmx 2.0.10, Zero-Clause BSD (0BSD), (c) the htmx contributors.
Copied unchanged from {DONOR} (MIT, (c) Adam Johnson) when this package was built.
"""
FORCED_FOLDERS = ("templates", "static")


class AssetHook(BuildHookInterface[Any]):
    """Fill `webapp/_vendor/` before any build; add the forced folders to a real wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Prepare the build; `version` is "standard" for a wheel and "editable" for a checkout install."""
        root = Path(self.root)
        vendor_assets(root / "webapp" / "_vendor")
        if version == "standard":
            for folder in FORCED_FOLDERS:
                if not (root / folder).is_dir():
                    raise RuntimeError(f"cannot build: the folder {folder}/ is missing beside pyproject.toml")
                build_data["force_include"][str(root / folder)] = f"webapp/{folder}"


def vendor_assets(target: Path) -> None:
    """Copy every vendored file into `target` and write its NOTICE; raise if one is missing or altered."""
    source = donor_folder()
    target.mkdir(parents=True, exist_ok=True)
    for inside, (name, expected) in VENDORED.items():
        content = (source / inside).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise RuntimeError(f"{name} from {DONOR}: SHA-256 is {found}, expected {expected}; build stopped")
        write_if_changed(target / name, content)
    write_if_changed(target / "NOTICE", NOTICE.encode())


def write_if_changed(path: Path, content: bytes) -> None:
    """Leave an equal file alone: a server of this checkout may be reading it."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def donor_folder() -> Path:
    """Find the donor package without importing it: it would want Django, which is never installed."""
    spec = importlib.util.find_spec("django_htmx")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the build needs {DONOR} (requirements/build.txt lists it with its hash)")
    return Path(next(iter(spec.submodule_search_locations)))
