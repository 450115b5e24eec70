"""For those who live in Python: what `import fedlora` gives, each name found where it stands when it is asked for.

running.py    simulate, compare: runs as calls      (they find `simulations` when they are called)
result.py     what a run leaves, as values          (reads the run's folder; imports no torch)
loaded.py     load: an adapter in its base, and its answers
strategies.py strategies: what each trains, sends and guarantees
live.py       a curve that grows while a run goes on
"""
