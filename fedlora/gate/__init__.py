"""The publish gate: what a result is held against before it is passed on. It acts; it is no promise of protection.

commands.py      `fedlora gate`
gating.py        the checks that were asked for, one after the other; with less of the adapter (shrunk.py)
checks/          tensors, quality, refusals, forgetting, memorised rows: a file each
rule.py          when a figure is on the good side of its bound
verdict.py       gate.json beside the adapter, which `fedlora export` obeys
"""
