"""Generate the blocking client from the awaiting one: `python tools/unasync.py [--check]`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "python_client" / "perdure"
SOURCE = PACKAGE / "_client_async.py"
TARGET = PACKAGE / "_client_sync.py"

HEADER = (
    "# Generated from _client_async.py by tools/unasync.py: change that file, then run the tool.\n"
)

WORDS = {
    r"async (?=def |with |for )": "",
    r"await ": "",
    r", ASYNC109": "",
    r"  # noqa: ASYNC109": "",
    r"__aenter__": "__enter__",
    r"__aexit__": "__exit__",
    r"\b_aio\b": "_blocking",
    r"\baio\b": "blocking",
    r"\bAsyncIterator\b": "Iterator",
    r"\bClient\b": "SyncClient",
    r"\bHandle\b": "SyncHandle",
    r"Written once, awaiting; the blocking one is generated\.": "The blocking one.",
}


def generate() -> str:
    """The text of the blocking client, formatted."""
    text = SOURCE.read_text(encoding="utf-8")
    for pattern, replacement in WORDS.items():
        text = re.sub(pattern, replacement, text)
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--fix", "--quiet", "--select", "I"], ["format", "--quiet"]):
        arguments = [*ruff, *command, "--stdin-filename", str(TARGET), "-"]
        run = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True)
        text = run.stdout
    return HEADER + text


def main() -> int:
    """Write the file, or with --check say whether it is up to date."""
    text = generate()
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
            print(f"{TARGET} is not what tools/unasync.py makes of {SOURCE.name}", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
