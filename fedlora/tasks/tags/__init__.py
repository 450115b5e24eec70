"""Words with tags: what a tag means, which entities stand in a row of them, and where a word's tag goes.

scheme.py       BIO: what each class of a run says of a word
spans.py        entities in a row of tags, and how many of them are right: counts that add up
words.py        words and tags of a row to token ids with labels
"""
