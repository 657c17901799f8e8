"""Says in one line what is missing before the environment can be made. Runs on any Python 3."""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "perdure needs Python 3.11 or newer, this is "
        + ".".join(map(str, sys.version_info[:2]))
        + ": make PYTHON=/path/to/python3.11"
    )
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("perdure needs Python's venv module: apt install python3-venv")
