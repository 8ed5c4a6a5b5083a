"""The name under which scripts outside of this repository import what became of a row."""

from pedsup_train.data.examples import BadRow as BadRow
from pedsup_train.data.examples import Example as Example
