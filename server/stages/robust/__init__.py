"""What one lying client can do to a round, bounded: a stage between the intake and `strategy.combine`. See stage.py."""
