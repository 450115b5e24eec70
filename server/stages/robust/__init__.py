"""Robust aggregation: limits what a lying client can do to a round. A stage between the intake and `strategy.combine`;
see stage.py."""
