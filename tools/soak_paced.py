"""The trial of soak_faults.py at the speed of a camera for half an hour, the freshest frame first.

`python tools/soak_paced.py --json FILE [--resume] [--frames 50400] [--fps 28] [--bundle FILE]`
"""

from __future__ import annotations

import sys

from tools.soak_faults import main

if __name__ == "__main__":
    sys.exit(main(str(__doc__), frames=30 * 60 * 28, paced=True))
