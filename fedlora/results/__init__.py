"""A run's result at work: what it answers to the rows of a file, how good it is on them, a conversation with it.

commands.py                   `fedlora predict`, `eval`, `chat`
opened.py given.py            a base with its adapter in it; the rows of a file, one by one
base.py registry.py           what a task answers for here; name of a task -> file
of_classes.py of_answers.py of_pairs.py    classes and images, answers, which of two answers
prompts.py greedy.py chat.py  what a language model is given; token by token; side by side with its base
figures.py class_report.py    means with their errors; precision, recall, confusion, calibration
evaluation.py shown.py        one file judged; as people and lm-evaluation-harness read it
"""
