"""MONAI's parser of bundles for tests that put many configurations together: each file is read once."""

import copy
import functools
from typing import Any

from monai.bundle import ConfigParser


@functools.cache
def loaded(path: str) -> Any:
    return ConfigParser.load_config_file(path)


class Parser(ConfigParser):
    """MONAI's, which reads each file once."""

    @classmethod
    def load_config_file(cls, filepath: Any, **_: Any) -> Any:
        return copy.deepcopy(loaded(str(filepath)))
