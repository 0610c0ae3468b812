"""Sets on Kaggle: credentials looked for before anything starts."""

from __future__ import annotations

from collections.abc import Iterable

from ...core.errors import DataError
from ..catalogue import DataSet

WAYS = """\
Get a token at https://www.kaggle.com/settings (API), then give it in one of three ways:
  1. export KAGGLE_API_TOKEN=... (or KAGGLE_USERNAME=... and KAGGLE_KEY=...)
  2. a file ~/.kaggle/kaggle.json, as the settings page hands it out
  3. on Colab: secrets of the names in 1, opened to this notebook (the key symbol at the left)"""


def page(dataset: DataSet) -> str:
    """Where the terms of a set on Kaggle are read and accepted."""
    kind, _, name = dataset.kaggle.partition("/")
    return f"https://www.kaggle.com/{'c' if kind == 'competitions' else kind}/{name}"


def require(datasets: Iterable[DataSet]) -> None:
    """Whether all sets on Kaggle among ``datasets`` can be asked for.

    Credentials are only looked for: they are neither printed nor stored.

    Raises:
        DataError: with the terms to accept and the ways to give credentials, if there are none.
    """
    wanted = [dataset for dataset in datasets if dataset.access == "kaggle"]
    if not wanted or has_credentials():
        return
    terms = "\n".join(f"  {item.name}: {item.terms or 'no terms'}, {page(item)}" for item in wanted)
    raise DataError(f"a Kaggle account is needed, and none was given, for\n{terms}\n{WAYS}")


def has_credentials() -> bool:
    """Whether kagglehub finds credentials in any of the three ways; nothing is asked for."""
    try:
        from kagglehub.config import get_kaggle_credentials

        return get_kaggle_credentials() is not None
    except (ValueError, OSError) as error:  # kaggle.json is there and broken
        raise DataError(
            f"Kaggle's credentials cannot be read ({type(error).__name__}).\n{WAYS}"
        ) from None
