"""Print constraints.txt: the exact version of everything lora-tui[engine,dev] stands on here.

Local version labels (``+cpu``) are dropped, so that each platform takes its own build.
"""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def closure(name: str, extras: set[str], found: dict[str, str]) -> None:
    """Add every installed distribution that ``name[extras]`` requires to ``found``."""
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        key = canonicalize_name(requirement.name)
        try:
            version = metadata.version(key)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        first = key not in found
        found[key] = Version(version).public
        if first or requirement.extras:
            closure(key, {"", *requirement.extras}, found)


def main() -> None:
    found: dict[str, str] = {}
    closure("lora-tui", {"", "engine", "dev"}, found)
    sys.stdout.write("# Exact versions of everything; made by `make constraints`.\n")
    sys.stdout.writelines(f"{name}=={found[name]}\n" for name in sorted(found))


if __name__ == "__main__":
    main()
