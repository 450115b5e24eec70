"""A run's result in the forms that other programs load.

about.py        what an export says of itself: fedlora.json
commands.py     `fedlora export`
source.py       adapter folders, read back
folder.py       a PEFT adapter folder, written
merged.py       the base with the adapter in its weights
gguf_lora.py    an adapter for llama.cpp and Ollama
readme.py       the README.md of a folder
card.py made.py licences.py    what the hub reads at its head: the run's own account, and the terms of bases
serving.py      the lines that a server is started with
"""
