"""What every package may use: files, locks, text, redaction, backoff, progress, supervised threads, facts of the board.

Knows nothing of inspection. Imports only ``errors``.
"""
