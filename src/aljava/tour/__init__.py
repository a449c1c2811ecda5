"""A table taken through all that Aljava does with it: streams, Feather, disk, shared memory, codecs and SQL.

Each step is done for real, timed, and followed by a comparison of what came back with what went in, which the time
does not count. Nothing here prints: `run` returns what happened, and the command line and the page show it.
"""

from aljava.tour.data import TourData, load
from aljava.tour.sections import Section, Step, Tour, run

__all__ = ["Section", "Step", "Tour", "TourData", "load", "run"]
