"""Which codec to choose for a table, measured on that table and on this machine.

::

    sampling     what is measured: all of the data, or pieces from all over it
    contenders   the ways to write a table, and how each is read
    measuring    `compare`: each contender in turn, timed and checked
    peak         how much memory each takes, in processes of their own
    result       `Comparison`: the figures, what beats what, and the advice
    shown        the same as text, as a page, in a terminal and as a plot
"""

from aljava.comparison.measuring import compare, measure
from aljava.comparison.result import ColumnMeasured, Comparison, Measured

__all__ = ["ColumnMeasured", "Comparison", "Measured", "compare", "measure"]
