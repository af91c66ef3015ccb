"""Make a release: check, build, check what was built, tag. Nothing is published.

    uv run python scripts/release.py --dry-run   # everything but the tag; also before a release
    uv run python scripts/release.py

The version is that of pyproject.toml. `dist/` must not hold an older build.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Collection
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED_IN_SOURCES = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml")
MANUAL = "share/man/man1/torchsaliency.1"


class ReleaseError(Exception):
    """Why no release can be made, in one sentence."""


def run(*words: str) -> str:
    """Run a program in the repository, and return what it prints."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(words)} failed: {done.stderr.strip() or done.stdout}")
    return done.stdout.strip()


def read_section(changelog: str, version: str) -> str:
    """Return what the changelog says of a version, or "Unreleased".

    Raises:
        ReleaseError: it has no such section, an empty one, or one without a date.
    """
    heading = re.search(rf"^## \[{re.escape(version)}\](.*)$", changelog, re.MULTILINE)
    if heading is None:
        raise ReleaseError(f"CHANGELOG.md has no section [{version}]; rename [Unreleased] to it.")
    if version != "Unreleased" and not re.fullmatch(r" - \d{4}-\d\d-\d\d", heading[1]):
        raise ReleaseError(f"CHANGELOG.md gives [{version}] no date; write - YYYY-MM-DD behind it.")
    text = changelog[heading.end() :].partition("\n## [")[0].strip()
    if not re.search(r"^- ", text, re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md says nothing of [{version}].")
    return text


def check_citation(citation: str, version: str) -> None:
    """Refuse a CITATION.cff of another version."""
    found = re.search(r"^version: (.+)$", citation, re.MULTILINE)
    if found is None or found[1] != version:
        raise ReleaseError(f"CITATION.cff has version {found and found[1]}; write {version}.")


def check_wheel(wheel: Path, version: str, tracked: Collection[str], python: str) -> None:
    """Refuse a wheel that lacks a tracked file of the package, has another, or wrong metadata.

    Args:
        wheel: the file.
        version: of the release.
        tracked: the files of the package in git, such as "torchsaliency/api.py".
        python: what Requires-Python must be.

    Raises:
        ReleaseError: as described.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = next((name for name in names if name.endswith(".dist-info/METADATA")), None)
        if about is None:
            raise ReleaseError(f"{wheel.name} has no METADATA.")
        facts = Parser().parsestr(archive.read(about).decode())
        manual = f"{about.removesuffix('.dist-info/METADATA')}.data/data/{MANUAL}"
    inside = {name for name in names if name.startswith("torchsaliency/")}
    for fault, wrong in (("lacks", set(tracked) - inside), ("has", inside - set(tracked))):
        if wrong:
            raise ReleaseError(f"{wheel.name} {fault} {', '.join(sorted(wrong)[:5])}.")
    if manual not in names:
        raise ReleaseError(f"{wheel.name} lacks the manual, {manual}.")
    for key, expected in (("Version", version), ("Requires-Python", python)):
        if facts[key] != expected:
            raise ReleaseError(f"{wheel.name} has {key} {facts[key]}, and it must be {expected}.")
    body = str(facts.get_payload())
    if not body.strip() or re.search(r"\]\((?!https://|#)", body):
        raise ReleaseError(f"{wheel.name}'s description is empty, or links to a relative address.")


def check_sources(archive: Path, version: str) -> None:
    """Refuse an archive of the sources without what a packager needs."""
    with tarfile.open(archive) as opened:
        names = set(opened.getnames())
    top = f"torchsaliency-{version}"
    wanted = [*NEEDED_IN_SOURCES, MANUAL, "src/torchsaliency/__init__.py", "tests/conftest.py"]
    if missing := [name for name in wanted if f"{top}/{name}" not in names]:
        raise ReleaseError(f"{archive.name} lacks {', '.join(missing)}.")


def release(*, dry_run: bool) -> str:
    """Check, build and tag, and return what was done.

    Raises:
        ReleaseError: something is not as it must be; nothing was tagged.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, tag = project["version"], f"v{project['version']}"
    if not dry_run and run("git", "status", "--porcelain"):
        raise ReleaseError("Files are not committed; commit or remove them.")
    if tag in run("git", "tag").split():
        raise ReleaseError(f"{tag} is there already; raise the version in pyproject.toml.")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = "Unreleased" if dry_run and f"## [{version}]" not in changelog else version
    notes = read_section(changelog, section)
    check_citation((ROOT / "CITATION.cff").read_text(encoding="utf-8"), version)
    dist = ROOT / "dist"
    if dist.exists() and any(dist.glob("torchsaliency-*")):
        raise ReleaseError("dist/ holds an older build; remove it.")
    run("uv", "build", "--quiet", "--out-dir", str(dist))
    tracked = run("git", "ls-files", "src/torchsaliency").splitlines()
    wheel = dist / f"torchsaliency-{version}-py3-none-any.whl"
    inside = [name.removeprefix("src/") for name in tracked]
    check_wheel(wheel, version, inside, project["requires-python"])
    check_sources(dist / f"torchsaliency-{version}.tar.gz", version)
    found = f"{wheel.name}: {len(tracked)} files, {wheel.stat().st_size / 1e6:.1f} MB"
    if dry_run:
        return f"{found}. All is well; nothing was tagged."
    run("git", "tag", "--annotate", tag, "--message", f"torchsaliency {version}\n\n{notes}")
    return f"{found}. {tag} is made; push it, and publish by uv publish."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="everything but the tag")
    try:
        print(release(dry_run=parser.parse_args().dry_run))
    except ReleaseError as error:
        sys.exit(str(error))
