"""Before round 1: Fed-SB's start from gradients."""
