"""Settings that functions take as one object, or one by one by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cellinfer.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)


def with_options(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """Return settings of which some are replaced by name.

    Raises
    ------
    InputError
        If there is no setting of a name.
    """
    known = [one.name for one in fields(settings)]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"There is no setting {unknown[0]!r}: choose from {', '.join(known)}.")
    return replace(settings, **options)
