"""What a model is fine-tuned for: a file a task, found by its name in `registry`.

base.py                       what a task answers for
registry.py                   name in a recipe -> task, and the forms of rows that it reads
sequence_classification.py image_classification.py    one class a text, an image; classes.py is what they share
causal_lm.py preference.py    the next token of an answer; which of two answers is better; answers.py is shared
answering/                    more of models that write answers: choices, single answers, losses, generation
token_classification.py       a tag a word: entities; tags/ is what they are and how they are counted
pretrained.py                 models through transformers' Auto classes
metric.py verdict.py guessing.py    a figure: its name, its direction; what a run's figures mean
usage.py                      how a result is loaded and used without fedlora
inputs/                       from a row to what a model is given
"""
