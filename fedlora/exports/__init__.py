"""A run's result in the forms that other programs load.

about.py        what an export says of itself: fedlora.json
folder.py       a PEFT adapter folder, written
readme.py       its README.md, and that of a merged model
"""
