"""The name under which scripts outside of this repository import the reader of rows."""

from pedsup_train.data.rows import read_rows as read_rows
