"""What the checks of rows raise."""

from __future__ import annotations


class RowError(Exception):
    """Row `row` of the columns is wrong in itself."""

    def __init__(self, row: int, code: str, text: str):
        super().__init__(text)
        self.row, self.code, self.text = row, code, text
