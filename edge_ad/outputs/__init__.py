"""Outputs to the line: a small guard process that owns the wires, and what the loop says to it. No NumPy in here."""
