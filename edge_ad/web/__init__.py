"""The dashboard: a process of its own beside the loop, fed over a pipe; nothing here is imported without `--web`."""
