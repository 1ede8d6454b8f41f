"""The folds of a data set, before any of them is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from domains.medical import preparation
from domains.medical.data.config import DataConfig
from domains.medical.data.fingerprint import fingerprint
from domains.medical.data.planning import make_plan
from domains.medical.data.splits import split
from shared_runtime.errors import DataError


def require_folds(config: DataConfig, seed: int) -> None:
    """Refuse data whose folds would score a case twice, as where they name a test part.

    Raises:
        DataError: the data cannot be split, or two folds score the same case.
    """
    scored: dict[str, int] = {}
    for fold in range(config.folds):
        one = replace(config, fold=fold)
        for case in split(preparation.usable(one), one, seed).test:
            if case.id in scored:
                raise DataError(
                    f"{config.path}: folds {scored[case.id]} and {fold} would both score "
                    f"{case.id}, because the data name the cases to score; train one model, or "
                    "leave the split of all cases empty"
                )
            scored[case.id] = fold


def with_one_grid(config: DataConfig, seed: int) -> DataConfig:
    """Return a configuration with the spacing and patch size that fold 0 plans.

    All folds then work on grids of the same spacing, so that their models can be averaged. Nothing
    else is shared: each fold's intensities are those of its own training part.
    """
    if config.spacing and config.patch_size:
        return config
    first = replace(config, fold=0)
    data_set = preparation.usable(first)
    read = partial(preparation.read, data_set=data_set)
    found = fingerprint(split(data_set, first, seed).train, data_set, read)
    plan = make_plan(found, data_set, first)
    return replace(config, spacing=plan.spacing, patch_size=plan.patch_size)
