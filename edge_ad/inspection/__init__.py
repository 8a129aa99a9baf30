"""The run on the line: camera workers, part tracking, judgement, alarm, drift, evidence, watchdog.

No torch, no training code. Used by ``web``, ``demo`` and the command line.
"""
