"""From normal images to a bundle: recipes, the loop with checkpoints, statistics, several processes, distillation.

Needs torch; nothing of the edge imports it. Used by ``demo`` and the command line.
"""
