"""A run's result at work: what it answers to the rows of a file, how good it is on them, a conversation with it.

commands.py                   `fedlora predict`, `eval`, `chat`
opened.py given.py            a base with its adapter in it; the rows of a file, one by one
base.py registry.py           what a task answers for here; name of a task -> a file of by_task/
predicting.py writing.py      a line a row, as CSV or JSON Lines
by_task/                      classes and images, written answers, which of two answers
judging/                      means with errors, precision and calibration, lm-evaluation-harness' layout
writes/                       prompts, greedy writing, chat
"""
