"""The command line: one file a command, each imported when it is called.

Commands parse, call and print; what they do lies in the other packages. Nobody imports this one.
"""
