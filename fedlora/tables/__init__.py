"""Local tables as text: what a cell holds is what the file says, whatever else the file holds.

    for record in read_table(path, ("text", "label", "client")):
        record.where       # "notes.csv, line 17"
        record.cells       # {"text": "...", "label": "007", "client": ""}; "" where there is nothing

Guarantee: a cell does not depend on any other cell; only the empty cell is empty; nothing is skipped but
lines without a character. Whatever cannot be read so is a SettingsError with file, line (or row) and column.
"""

from fedlora.tables.reading import READERS, Record, read_table

__all__ = ["READERS", "Record", "read_table"]
