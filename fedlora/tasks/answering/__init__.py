"""More that is asked of a model that writes answers: other tasks, other losses, and what it says by itself.

multiple_choice.py unpaired_preference.py    tasks: the right one of several answers; answers that are good or bad
token_loss.py                       the loss of single tokens, without all logits
choices.py                          the log-probability of every choice
objective.py dpo.py orpo.py kto.py  losses of preference training, a paper a file
generation.py overlap.py            answers written token by token; how far they are those that were asked for
ending.py                           where an answer ends
"""
