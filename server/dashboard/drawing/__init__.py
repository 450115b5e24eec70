"""How it is drawn: pieces of HTML, charts, units, words."""
