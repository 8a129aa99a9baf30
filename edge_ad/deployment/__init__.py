"""What derives something from a finished bundle: engines, INT8 plans, the accuracy gate, new thresholds, new
statistics.

Runs on the device, without torch. Used by ``training`` (for the plans in a bundle), ``web`` and above.
"""
