"""The systemd unit of a station: what it may open, its text, its installation."""
