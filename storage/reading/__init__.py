"""What trainers read: map-style datasets, endless exact streams, crops, and other programs' formats."""

from storage.reading.cutting import Cutting
from storage.reading.frames import Caching
from storage.reading.loading import RawLoader
from storage.reading.map_style import RawDataset
from storage.reading.splits import Split
from storage.reading.streaming import RawStream, Source

__all__ = ["Caching", "Cutting", "RawDataset", "RawLoader", "RawStream", "Source", "Split"]
