"""The demonstration: from rendered trays to a trained bundle, its verdicts and a report.

Only steps that a user could take as well. Used by the command line alone.
"""
