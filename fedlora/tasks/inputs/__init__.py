"""From a row to what a model is given.

by_itself.py                        rows to items one by one, so that none makes the others fail
texts.py tokens.py                  texts to token ids; what tasks of token ids share
learned_text.py pairs.py            what is read of a row of answers, and what is learnt; two answers to one prompt
pixels.py                           images to pixel values
padding.py positions.py             the lengths that texts are padded to; how long a text a model can read
"""
