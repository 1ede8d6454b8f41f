"""Training, validation and test cases; all scans of a patient are in one part."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from domains.medical.data.case import Case, DataSet
from domains.medical.data.config import DataConfig
from shared_runtime.errors import DataError


@dataclass(frozen=True)
class Parts:
    """The cases of each part, in the order of the data set."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def items(self) -> dict[str, tuple[Case, ...]]:
        """Return the three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}


def split(data_set: DataSet, config: DataConfig, seed: int) -> Parts:
    """Return the parts that the data give, or a fold of a shuffle of the patients.

    - Where cases are given as `test`, they are scored; otherwise fold `config.fold` of
      scikit-learn's `KFold(config.folds, shuffle=True, random_state=config.split_seed)` over the
      sorted patients is, which are the folds of nnU-Net where each case is a patient.
    - Where cases are given as `val`, they select; otherwise a share `config.validation` of the
      other patients does, drawn by `seed` and the fold. With `validation=0` the training part
      itself is the validation part.

    Raises:
        DataError: a patient would be in two parts, the data give some parts but no test part, or
            there are too few patients.
    """
    require_apart(data_set)
    cases = data_set.cases
    if not cases:
        raise DataError("no cases to split; give data with images and labels")
    given = {name: {c.patient for c in cases if c.split == name} for name in ("val", "test")}
    if not given["test"] and any(case.split for case in cases):
        raise DataError(
            "the data give a training or validation part but no test part; name the cases to score "
            "test, or leave the split of all cases empty for folds"
        )
    test = given["test"] or _fold(sorted({case.patient for case in cases}), config)
    rest = sorted({case.patient for case in cases} - test - given["val"])
    val = given["val"] or _share(rest, config, seed)
    train = set(rest) - val
    if not train:
        raise DataError("no patients are left to train on; name some train, or add more")
    return Parts(
        train=_cases(data_set, train),
        val=_cases(data_set, val or train),
        test=_cases(data_set, test),
    )


def require_apart(data_set: DataSet) -> None:
    """Refuse data that give scans of one patient to several parts.

    Raises:
        DataError: names such a patient.
    """
    for patient, parts in shared_patients(data_set).items():
        raise DataError(
            f"patient {patient} is in {' and '.join(parts)}; put all scans of a patient in one part"
        )


def shared_patients(data_set: DataSet) -> dict[str, list[str]]:
    """Return the parts of each patient that is given to several.

    Cases without a part may go to training or validation, so they may not share a patient with a
    part that is given.
    """
    parts: dict[str, set[str]] = {}
    for case in data_set.cases:
        parts.setdefault(case.patient, set()).add(case.split or "no part")
    return {patient: sorted(named) for patient, named in parts.items() if len(named) > 1}


def _fold(patients: list[str], config: DataConfig) -> set[str]:
    from sklearn.model_selection import KFold

    if len(patients) < config.folds:
        count = "1 patient" if len(patients) == 1 else f"{len(patients)} patients"
        fewer = "name a test part"
        if len(patients) > 1:
            fewer = f"set data.folds to {len(patients)} or less, or {fewer}"
        raise DataError(f"{count} for {config.folds} folds; {fewer}")
    folds = KFold(config.folds, shuffle=True, random_state=config.split_seed)
    chosen = list(folds.split(patients))[config.fold][1]
    return {patients[place] for place in chosen}


def _share(patients: list[str], config: DataConfig, seed: int) -> set[str]:
    if config.validation == 0:
        return set()
    if len(patients) < 2:
        raise DataError(
            f"too few patients to train and validate on ({len(patients)}); add more, or set "
            "data.validation=0 with training.select=last and training.patience=0"
        )
    count = min(max(1, round(config.validation * len(patients))), len(patients) - 1)
    drawn = np.random.default_rng([seed, config.fold]).permutation(len(patients))[:count]
    return {patients[place] for place in drawn}


def _cases(data_set: DataSet, patients: Collection[str]) -> tuple[Case, ...]:
    return tuple(case for case in data_set.cases if case.patient in patients)
