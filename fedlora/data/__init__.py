"""From a file to examples: rows, columns, who trains and who tests, token ids."""
