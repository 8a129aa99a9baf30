"""Presets by name, the settings of their networks, and overrides from the command line.

Plain values, no torch. Used by ``models``, ``training`` and the command line.
"""
