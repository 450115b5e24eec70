"""Several clients of one process in one forward and backward pass. A deployed site has one client, and none of this.

rounds.py trainer.py       a round at several sites; which works train together, and what is done with the others
groups.py trial.py         what works must have in common; whether their model keeps clients apart
group.py plain.py          the steps: one optimiser, rows cut into passes, dropout as each client draws it
private.py                 the same with each client's own sample, noise and charge
passes.py draws.py
"""
