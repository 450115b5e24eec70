"""A base whose matrices are held in few bits, by bitsandbytes: `model.load_dtype: nf4 | int8`.

scheme.py    what the settings mean, and what is asked of transformers; imports no bitsandbytes
layers.py    the product with such a matrix, and its numbers as floats
"""
