"""Bundles for many stations without a server of ours: signed releases, a desired state that brokers or folders keep, and
the agent that follows it beside a run.
"""
