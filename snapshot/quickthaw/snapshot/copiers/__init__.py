"""Ways of reading a file into memory."""

from quickthaw.snapshot.copiers.base import Copier as Copier
from quickthaw.snapshot.copiers.choose import choose as choose
from quickthaw.snapshot.copiers.direct import DirectCopier as DirectCopier
from quickthaw.snapshot.copiers.pread import PageCacheCopier as PageCacheCopier
