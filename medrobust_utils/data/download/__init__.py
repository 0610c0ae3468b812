"""Downloads that arrive whole: fetched, checked, unpacked safely, and put in place at once."""

from .sets import download_set
from .transfer import Patience

__all__ = ["Patience", "download_set"]
