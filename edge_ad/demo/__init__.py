"""The demonstration: the whole road on the synthetic line, from rendered trays to a report."""
