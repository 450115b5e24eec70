"""What is measured and checked on a GPU: `make gpu`. Rehearsed on a CPU by tests/gpu/test_rehearsal.py."""
