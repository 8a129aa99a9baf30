"""This machine and the station on it: what ``doctor`` finds and tries, and the systemd service.

Reads files under a root, so that a test can stand in for a board. Used by the command line alone.
"""
