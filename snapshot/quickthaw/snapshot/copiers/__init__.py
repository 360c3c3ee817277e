"""Ways to a component's bytes."""

from quickthaw.snapshot.copiers.base import OpenComponent as OpenComponent
from quickthaw.snapshot.copiers.base import Origin as Origin
from quickthaw.snapshot.copiers.base import Source as Source
from quickthaw.snapshot.copiers.base import Sparse as Sparse
from quickthaw.snapshot.copiers.cached import cached_fraction as cached_fraction
from quickthaw.snapshot.copiers.choose import open_file as open_file
from quickthaw.snapshot.copiers.choose import open_source as open_source
from quickthaw.snapshot.copiers.direct import DirectSource as DirectSource
from quickthaw.snapshot.copiers.mapped import MappedRange as MappedRange
from quickthaw.snapshot.copiers.mapped import map_component as map_component
from quickthaw.snapshot.copiers.memory import MemorySource as MemorySource
from quickthaw.snapshot.copiers.page_cache import PageCacheSource as PageCacheSource
