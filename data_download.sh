#!/usr/bin/env bash
# Where the data sets come from, how they must lie, and their download: see --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=$(command -v python3) || {
    echo "data_download.sh: python3 is missing; install Python 3.11 or later" >&2
    exit 1
}
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
missing=$("$python" -c '
from importlib.util import find_spec
needed = {"filelock": "filelock", "numpy": "numpy", "pooch": "pooch", "PIL": "pillow",
          "pandas": "pandas", "pydantic": "pydantic", "requests": "requests", "tqdm": "tqdm",
          "yaml": "pyyaml"}
print(*(name for module, name in needed.items() if find_spec(module) is None))
')
if [ -n "$missing" ]; then
    echo "data_download.sh: $python lacks $missing; run \`make venv\` in $here first" >&2
    exit 1
fi
exec "$python" -m medrobust_utils data "$@"
