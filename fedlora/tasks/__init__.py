"""What a model is fine-tuned for: a file a task, found by its name in `registry`.

base.py                       what a task answers for
usage.py                      how a result is loaded and used without fedlora
metric.py verdict.py          a figure: its name, its direction; what a run's figures mean
registry.py                   name in a recipe -> task
sequence_classification.py    one class a text; its judge is guessing.py
causal_lm.py                  the next token of an answer; learned_text.py: of which, token_loss.py: without all logits
preference.py                 which of two answers is the better one (DPO); pairs.py: what is read of a row
image_classification.py       one class an image; pixels.py is what its model reads
pretrained.py                 models through transformers' Auto classes
tokens.py texts.py            what tasks of token ids share: padding, invented texts, tokenising row by row
padding.py positions.py       the lengths that texts are padded to; how long a text a model can read
"""
