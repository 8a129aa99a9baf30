"""The synthetic line: trays with parts, their defects, how they are drawn, and how they pass on a belt.

Pure NumPy and OpenCV drawing. Used by ``camera`` (the synthetic source) and ``demo``.
"""
