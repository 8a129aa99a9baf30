"""From normal images to a bundle: recipes, the loop with checkpoints, statistics, several processes, distillation.

Needs torch; nothing of the edge imports it. Used by ``demo`` and the command line.
"""

import os

# Threads of GNU OpenMP that wait spin for milliseconds, so beside one other busy process a step takes two to three times
# as long; threads that sleep at once cost a tenth alone. A short spin costs neither (docs/experiments/training.md). It is
# read when torch is loaded, so it must stand here, before a module of this package imports it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
